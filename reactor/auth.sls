{# Somebody knocks: see whether it is one who is expected. Nothing of the event is used, and while nobody
   is expected nothing runs: a stranger may knock as often as they like. While somebody is, one look in
   two seconds does for all: who waits knocks again every few seconds. See enrol.check. #}
{%- set state_dir = (opts.get('saltberry') or {}).get('state_dir', '/var/lib/saltberry') %}
{%- set looked = salt['file.stats'](state_dir ~ '/looked').get('mtime', 0) if salt['file.file_exists'](state_dir ~ '/looked') else 0 %}
{%- if salt['file.file_exists'](state_dir ~ '/expecting') and salt['status.time']('%s') | int - looked >= 2 %}
see who knocks:
  runner.enrol.check: []
{%- endif %}
