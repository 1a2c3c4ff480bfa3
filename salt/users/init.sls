# People, from the pillar. Who is not named there is left alone.
{%- set people = pillar['users'] or {} %}
{%- set admins = [] %}
{%- for name, user in people.items() %}
{%- set user = user or {} %}
{%- if user.get('absent') %}
users-{{ name }}:
  user.absent:
    - name: {{ name | json }}
{%- else %}
{%- set home = salt['user.info'](name).get('home') or '/home/' ~ name %}
{%- if user.get('sudo') %}
{%- do admins.append(name) %}
{%- endif %}
users-{{ name }}:
  user.present:
    - name: {{ name | json }}
    - optional_groups: {{ user.get('groups', []) | json }}
    - remove_groups: False
    {%- if user.get('shell') %}
    - shell: {{ user.shell | json }}
    {%- elif not salt['user.info'](name) %}
    - shell: /bin/bash
    {%- endif %}
{%- if user.get('ssh_keys') %}

users-{{ name }}-keys:
  file.managed:
    - name: {{ (home ~ '/.ssh/authorized_keys') | json }}
    - contents: {{ user.ssh_keys | json }}
    - user: {{ name | json }}
    - mode: '0600'
    - dir_mode: '0700'
    - makedirs: True
    - require:
      - user: users-{{ name }}
{%- endif %}
{%- endif %}
{% endfor %}
{%- if admins %}
users-sudo-package:
  debs.installed:
    - packages: [sudo]

users-sudo:
  file.managed:
    - name: /etc/sudoers.d/saltberry
    - contents: |
        # Written by Salt, from the pillar's users
        {%- for name in admins %}
        {{ name }} ALL=(ALL:ALL) NOPASSWD: ALL
        {%- endfor %}
    - mode: '0440'
    - check_cmd: /usr/sbin/visudo -cf
    - require:
      - debs: users-sudo-package
{%- else %}
users-sudo:
  file.absent:
    - name: /etc/sudoers.d/saltberry
{%- endif %}
