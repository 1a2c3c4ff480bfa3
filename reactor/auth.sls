{# Somebody knocks: see whether it is one who is expected. Nothing of the event is used, and while nobody
   is expected nothing runs: a stranger may knock as often as they like. See enrol.check. #}
{%- set state_dir = (opts.get('saltberry') or {}).get('state_dir', '/var/lib/saltberry') %}
{%- if salt['file.file_exists'](state_dir ~ '/expecting') %}
see who knocks:
  runner.enrol.check: []
{%- endif %}
