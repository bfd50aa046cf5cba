-- Brings roles, databases, extensions and replication slots in line with the topology. May run any number of times.
-- A commit must not wait for a standby that is only about to be made.
set synchronous_commit = local;
set client_min_messages = warning;
-- Slow or not, in error or not: statements with verifiers do not belong in the log.
set log_min_duration_statement = -1;
set log_statement = none;
set log_min_error_statement = panic;
{% for slot in slots %}
select pg_create_physical_replication_slot('{{ slot }}', true)
  where not exists (select from pg_replication_slots where slot_name = '{{ slot }}')
{% if lab.failover.engine == "pgagent" %}    -- The agent of a standby makes it when it is promoted; until then it would hold back WAL for nobody.
    and not pg_is_in_recovery()
{% endif %};
{% endfor %}
-- A standby gets the rest from its primary.
select pg_is_in_recovery() as standby \gset
\if :standby
\quit
\endif
{% for name, user in users %}{% if name != "postgres" %}
select 'create role {{ name }}' where not exists (select from pg_roles where rolname = '{{ name }}') \gexec
{% endif %}
alter role {{ name }} login password '{{ user.verifier }}';
{% endfor %}
alter role replicator replication;
-- pg_rewind, which brings an old primary back, reads the source with these.
grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
  pg_read_binary_file(text, bigint, bigint, boolean) to replicator;
{% for user in lab.postgres.users %}
alter role {{ user.name }} {% for attribute in role_attributes %}{% if attribute in user.attributes %}{{ attribute }}{% else %}no{{ attribute }}{% endif %} {% endfor %};
{% for group in user.member_of %}grant {{ group }} to {{ user.name }};
{% endfor %}{% endfor %}
{% for database in lab.postgres.databases %}
select 'create database {{ database.name }} owner {{ database.owner }}'
  where not exists (select from pg_database where datname = '{{ database.name }}') \gexec
alter database {{ database.name }} owner to {{ database.owner }};
{% if database.extensions %}
\connect {{ database.name }}
set synchronous_commit = local;
{% for extension in database.extensions %}create extension if not exists "{{ extension }}";
{% endfor %}
\connect postgres
set synchronous_commit = local;
{% endif %}{% endfor %}
