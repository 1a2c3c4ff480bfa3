# After the users: passwords are turned off only while an admin has a key.
include:
  - users
  {%- if not pillar['ssh']['harden'] %}
  - sshd.absent
  {%- else %}

sshd-hardened:
  sshd.hardened:
    - passwords: {{ pillar['ssh']['passwords'] | json }}
    - require:
      - sls: users
  {%- endif %}
