# Wifi that sleeps answers late, or after the caller has given up. NetworkManager's word counts from
# the next time it connects; until then the interface is told directly.
{%- set interfaces = salt['node.wifi']() %}
{%- if interfaces and not salt['node.system']().wifi_power_save %}
wifi-awake:
  file.managed:
    - name: /etc/NetworkManager/conf.d/90-saltberry-wifi.conf
    - contents: |
        # Written by Salt, from the pillar's system.wifi_power_save
        [connection]
        wifi.powersave = 2
    - makedirs: True
    - mode: '0644'

# Where something else than NetworkManager connects
wifi-awake-rule:
  file.managed:
    - name: /etc/udev/rules.d/90-saltberry-wifi.rules
    - contents: |
        # Written by Salt, from the pillar's system.wifi_power_save
        ACTION=="add", SUBSYSTEM=="net", ENV{DEVTYPE}=="wlan", RUN+="/usr/sbin/iw dev %k set power_save off"
    - mode: '0644'
{%- else %}
wifi-awake:
  file.absent:
    - names:
      - /etc/NetworkManager/conf.d/90-saltberry-wifi.conf
      - /etc/udev/rules.d/90-saltberry-wifi.rules
{%- endif %}
