# Every so often the rack is compared with the pillar (docs/drift.md), by a timer and not by cron: it
# runs once for all the times it missed while the master was off, never twice at once, is stopped when
# it hangs, and its output is in the journal. Raspberry Pi OS Lite need not have cron at all.
include:
  {%- if pillar['drift']['enabled'] %}
  - drift.installed
  - drift.running
  {%- else %}
  - drift.absent
  {%- endif %}
