# What docker calls at every start of a container: AppArmor's loader where the kernel enforces it.
# The command line is a package of its own since Debian 13.
{%- set packages = ['docker.io'] %}
{%- if grains.get('osmajorrelease', 0) | int >= 13 %}
  {%- do packages.append('docker-cli') %}
{%- endif %}
{%- if salt['storage_backend.apparmor']() %}
  {%- do packages.append('apparmor') %}
{%- endif %}
docker-packages:
  debs.installed:
    - packages: {{ packages | json }}
