# The system's log in memory spares the card; on the card it survives a boot.
{%- set system = salt['node.system']() %}
{%- if system.journal == 'as-is' %}
include:
  - journal.absent
{%- else %}
journal-config:
  file.managed:
    - name: /etc/systemd/journald.conf.d/90-saltberry.conf
    - contents: |
        # Written by Salt, from the pillar's system.journal
        [Journal]
        {%- if system.journal == 'memory' %}
        Storage=volatile
        RuntimeMaxUse={{ system.journal_size }}
        {%- else %}
        Storage=persistent
        SystemMaxUse={{ system.journal_size }}
        {%- endif %}
    - makedirs: True
    - mode: '0644'

journal-running:
  service.running:
    - name: systemd-journald
    - watch:
      - file: journal-config
{%- endif %}
