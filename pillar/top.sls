# Every minion with a usable id gets the defaults with your pillar/rack.sls laid over them.
# The pattern is that of host names (ID_PATTERN in _utils/rackspec.py): a minion that calls itself
# anything else gets no pillar. NAME_master is the master itself, when it runs an orchestration.
# What only one minion may know is added by _pillar/saltberry.py, not here.
base:
  '(?!localhost\Z)(?![0-9]+\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z|[A-Za-z0-9.-]+_master\Z':
    - match: pcre
    - defaults
    - rack
    # _pillar/saltberry.py says in plain words which file is missing
    - ignore_missing: true
