{# What objects.sql does, with a cluster that is the image's own, which has nothing but a database in store. In parts, as `ask` takes
them; first what a standby asks for, which may come at any moment. -#}
{% include "postgres/objects-quiet.sql" %}
set synchronous_commit = local;
create role replicator login replication password '{{ users.replicator.verifier }}';
\g
{% for slot in slots %}select pg_create_physical_replication_slot('{{ slot }}', true);
{% endfor %}{% for name, user in users %}{% if name != "replicator" %}{% if name == "postgres" %}alter{% else %}create{% endif %} role {{ name }} login password '{{ user.verifier }}';
{% endif %}{% endfor %}{% include "postgres/objects-rewind.sql" %}{% for user in lab.postgres.users %}{% include "postgres/objects-user.sql" %}comment on role {{ user.name }} is '{% include "postgres/objects-user-mark.txt" %}';
{% endfor %}{% for database in lab.postgres.databases %}\g
{% if loop.first %}alter database pgprov_spare rename to {{ database.name }}{% else %}create database {{ database.name }} strategy file_copy{% endif %}
\g
alter database {{ database.name }} owner to {{ database.owner }};
comment on database {{ database.name }} is 'pgprov: from the topology';
{% else %}\g
drop database pgprov_spare
{% endfor %}
