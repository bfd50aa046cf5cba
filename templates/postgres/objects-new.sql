{# What objects.sql does, with a cluster that is the image's own, which has nothing but a database in store. In parts, as `ask` takes
them; first what a standby asks for, which may come at any moment. -#}
{% include "postgres/objects-quiet.sql" %}
set synchronous_commit = local;
create role replicator login replication password '{{ users.replicator.verifier }}';
\g
{% for slot in slots %}select pg_create_physical_replication_slot('{{ slot }}', true);
{% endfor %}{% for name, user in users %}{% if name != "replicator" %}{% if name == "postgres" %}alter{% else %}create{% endif %} role {{ name }} login password '{{ user.verifier }}';
{% endif %}{% endfor %}grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
  pg_read_binary_file(text, bigint, bigint, boolean) to replicator;
{% for user in lab.postgres.users %}alter role {{ user.name }} {% for attribute in role_attributes %}{% if attribute in user.attributes %}{{ attribute }}{% else %}no{{ attribute }}{% endif %} {% endfor %};
{% for group in user.member_of %}grant {{ group }} to {{ user.name }};
{% endfor %}comment on role {{ user.name }} is 'pgprov: from the topology{% if user.member_of %}, member of {{ user.member_of | join(sep=", ") }}{% endif %}';
{% endfor %}{% for database in lab.postgres.databases %}\g
{% if loop.first %}alter database pgprov_spare rename to {{ database.name }}{% else %}create database {{ database.name }} strategy file_copy{% endif %}
\g
alter database {{ database.name }} owner to {{ database.owner }};
comment on database {{ database.name }} is 'pgprov: from the topology';
{% else %}\g
drop database pgprov_spare
{% endfor %}
