# No page. What nginx serves besides stays.
page-timer-dead:
  units.dead:
    - name: saltberry-page.timer
{% for path in [
      '/etc/systemd/system/saltberry-page.timer', '/etc/systemd/system/saltberry-page.service',
      '/srv/saltberry/page/index.html'] %}
page-{{ path }}-absent:
  file.absent:
    - name: {{ path }}
    - require:
      - units: page-timer-dead
{% endfor %}
page-nginx-site-absent:
  file.absent:
    - name: /etc/nginx/conf.d/saltberry-page.conf

page-nginx-without-it:
  module.run:
    - service.reload: [{name: nginx}]
    - onchanges:
      - file: page-nginx-site-absent
