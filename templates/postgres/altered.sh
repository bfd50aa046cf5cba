# altered reload|restart: what ALTER SYSTEM set over rendered settings that a reload, or a restart, applies; whether it did. Without
# a process, because every `pgprov up` asks.
altered() {
  [ -e {{ pg.data }}/postgresql.auto.conf ] || return 1
  status=1
  while read -r name value; do
    case $name in
    # {% if lab.failover.engine == "none" %}In a failover by hand it is set by it too: none of our business while the host has another part than in the topology.{% else %}What replication needs is set by it too: by the engine, whose business it is.{% endif %}
    synchronous_standby_names | primary_conninfo | primary_slot_name | recovery_target_timeline)
      {% if lab.failover.engine == "none" %}[ {% if not host.follows %}! {% endif %}-e {{ pg.data }}/standby.signal ] || continue{% else %}continue{% endif %} ;;
    esac
    case $1:$name in
    {% for setting in pg.reload %}reload:{{ setting.name }} | {% endfor %}{% for setting in pg.restart %}restart:{{ setting.name }} | {% endfor %}-)
      status=0
      printf '%s %s\n' "$name" "$value" ;;
    esac
  done <{{ pg.data }}/postgresql.auto.conf
  return $status
}
