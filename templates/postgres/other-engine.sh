# The engine that has the server of this host, if there is one. Another one may take over only who has which part in the
# topology; Patroni has made its servers from the start, and keeps them.
had=none
[ ! -e /etc/systemd/system/pgagent.service ] || had=pgagent
[ ! -e /etc/systemd/system/patroni.service ] || had=patroni
if [ -s {{ pg.data }}/PG_VERSION ] && [ $had != {{ lab.failover.engine }} ]; then
  case $had:{{ lab.failover.engine }} in
  *patroni*)
    echo "its PostgreSQL has the failover engine $had, and Patroni is not given to servers that exist, nor taken from them: destroy the lab and make it anew" ;;
  *)
    back=
    [ $had = none ] || back=', or pgprov ha switchover gives the parts back'
{% if host.follows %}    [ -e {{ pg.data }}/standby.signal ] ||
      echo "it is a primary, and in the topology it follows {{ host.follows }}: the engine can change once the topology says who is what$back"
{% else %}    [ ! -e {{ pg.data }}/standby.signal ] ||
      echo "it is a standby, and in the topology it is the primary: the engine can change once the topology says who is what$back"
{% endif %}    ;;
  esac
fi
