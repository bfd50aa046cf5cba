# Patroni starts it as a standby and promotes it then. So its control file has to say that there is enough in the WAL, and for
# how many connections; and the role that copies are made with is there before the first one wants it.
install -d -m 0755 /run/pgprov/first
cat /etc/patroni/dynamic/10-reload.conf /etc/patroni/dynamic/20-restart.conf >/run/pgprov/first/postgresql.conf
{{ pg.as_postgres }} {{ pg.bin }}/postgres --single -D {{ pg.data }}.new -c config_file=/run/pgprov/first/postgresql.conf \
  -c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic postgres <<'SQL' >/run/pgprov/first/said
create role replicator login replication password '{{ users.replicator.verifier }}'
SQL
rm -r /run/pgprov/first
