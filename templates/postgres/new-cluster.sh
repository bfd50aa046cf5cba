rm -rf {{ pg.data }}.new
install -d -o postgres -g postgres /var/lib/postgresql/{{ pg.version }}
cd /
seed=
# Our images have the result of initdb, which gets a system identifier of its own. Moved, because a copy of a thousand files
# takes an emulated host a second: should the data directory be lost, initdb makes the next one.
if [ -x /usr/lib/pgprov/seed-cluster ] && mv /usr/lib/pgprov/postgres/{{ pg.version }} {{ pg.data }}.new; then
  seed=$(/usr/lib/pgprov/seed-cluster {{ pg.data }}.new)
else
  install -d -o postgres -g postgres -m 0700 {{ pg.data }}.new
  {{ pg.as_postgres }} {{ pg.bin }}/initdb -D {{ pg.data }}.new --data-checksums --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=peer --auth-host=scram-sha-256
fi
{% if lab.failover.engine == "patroni" %}{% include "patroni/first-start.sh" %}{% endif -%}
# For those who would look for what is in it.
echo "$seed" >/run/pgprov/new-cluster
# A power cut after this must find all of it: what is in the directory first, then its name.
sync -f {{ pg.data }}.new
[ ! -d {{ pg.data }} ] || rmdir {{ pg.data }}
mv {{ pg.data }}.new {{ pg.data }}
sync -f {{ pg.data }}
{% if lab.failover.engine != "patroni" -%}
# Standbys that are made in the same run need nothing else of it.
[ -z "$seed" ] || gives seed "$seed"
{% endif -%}
