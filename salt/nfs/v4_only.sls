# Portmapper and lock daemon belong to NFS 3. Masked before the packages come, so they never listen.
{%- for unit in ['rpcbind.service', 'rpcbind.socket', 'rpc-statd.service', 'rpc-statd-notify.service'] %}
nfs-masked-{{ unit }}:
  file.symlink:
    - name: /etc/systemd/system/{{ unit }}
    - target: /dev/null
    - force: True
{% endfor %}
# On a system that had them already they still run.
{%- for unit in ['rpcbind.socket', 'rpcbind.service'] %}
nfs-dead-{{ unit }}:
  service.dead:
    - name: {{ unit }}
    - require:
      - file: nfs-masked-{{ unit }}
{% endfor %}
