# Each node gets its roles, and only those. Roles come from the master's pillar by minion id
# (_pillar/saltberry.py), never from a grain: a grain is the minion's word.
#
# A role that a node no longer has is not undone here: taking a node out of the cluster throws away
# what runs on it, so roles/<role>/absent.sls is applied only on request.
base:
  '*':
    {%- for role in pillar.get('node', {}).get('roles', []) %}
    - roles.{{ role }}
    {%- else %}
    []
    {%- endfor %}
