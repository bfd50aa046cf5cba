-- Brings roles, databases, extensions and replication slots in line with the topology. May run any number of times. With `is_new`
-- nothing is looked for that should go: the cluster was just made.
-- A commit must not wait for a standby that is only about to be made.
set synchronous_commit = local;
{% include "postgres/objects-quiet.sql" %}
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
-- A standby may ask at any moment: from the first on, the role that it asks as may do all that it needs.
{% for name, user in users %}{% if name != "postgres" %}
select 'create role {{ name }}{% if name == "replicator" %} replication{% endif %}' where not exists (select from pg_roles where rolname = '{{ name }}') \gexec
{% endif %}
alter role {{ name }} login password '{{ user.verifier }}';
{% endfor %}
alter role replicator replication;
-- pg_rewind, which brings an old primary back, reads the source with these.
{% include "postgres/objects-rewind.sql" %}\if :{?is_new}
\else
-- Users that the topology no longer has. What they own is not ours to throw away.
do $$
declare
  lost record;
  places text;
begin
  for lost in
    with
{% include "postgres/objects-wanted.sql" %}
    select name from gone where kind = 'user'
  loop
    select string_agg(distinct case when dbid = 0 then pg_describe_object(classid, objid, objsubid) else 'database ' || datname end, ', ')
      into places from pg_shdepend left join pg_database on pg_database.oid = dbid
      where refclassid = 'pg_authid'::regclass and refobjid = to_regrole(quote_ident(lost.name))::oid and classid <> 'pg_auth_members'::regclass;
    if places is not null then
      raise 'user % cannot be dropped: it owns objects, or has privileges, in %', lost.name, places
        using hint = format('hand them over there, or throw them away: REASSIGN OWNED BY %1$I TO ...; DROP OWNED BY %1$I', lost.name);
    end if;
    execute format('drop role %I', lost.name);
  end loop;
end $$;
-- Memberships that the topology gave and no longer has.
with
{% include "postgres/objects-wanted.sql" %}
select format('revoke %I from %I', membership, name) from wanted join marked using (kind, name),
  unnest(string_to_array(substring(marked.mark from ', member of (.*)$'), ', ')) as membership
  where kind = 'user' and to_regrole(quote_ident(membership)) is not null
    and membership <> all (string_to_array(coalesce(substring(wanted.mark from ', member of (.*)$'), ''), ', ')) \gexec
\endif
{% for user in lab.postgres.users %}
{% include "postgres/objects-user.sql" %}{% endfor %}
{% for database in lab.postgres.databases %}
-- The image's own cluster has one to take.
select 'alter database pgprov_spare rename to {{ database.name }}' from ({% include "postgres/spare.sql" %}) spare
  where not exists (select from pg_database where datname = '{{ database.name }}') \gexec
select 'create database {{ database.name }} owner {{ database.owner }}' ||
    -- By its files: their pages, written into WAL one by one, would be most of what a young cluster sends its standby.
    case when current_setting('server_version_num')::int >= 150000 then ' strategy file_copy' else '' end
  where not exists (select from pg_database where datname = '{{ database.name }}') \gexec
alter database {{ database.name }} owner to {{ database.owner }};
-- Extensions that the topology made and no longer has go, unless something needs them.
\set visit {% if database.extensions %}true{% else %}false{% endif %}
\if :{?is_new}
\else
select {{ database.extensions | length }} > 0 or coalesce(shobj_description(oid, 'pg_database') like 'pgprov: %, extensions %', false) as visit
  from pg_database where datname = '{{ database.name }}' \gset
\endif
\if :visit
\connect {{ database.name }}
set synchronous_commit = local;
{% include "postgres/objects-quiet.sql" %}
{% for extension in database.extensions %}create extension if not exists "{{ extension }}";
{% endfor %}
with
{% include "postgres/objects-wanted.sql" %}
select format('drop extension if exists %I', extension) from wanted join marked using (kind, name),
  unnest(string_to_array(substring(marked.mark from ', extensions (.*)$'), ', ')) as extension
  where kind = 'database' and name = current_database()
    and extension <> all (string_to_array(coalesce(substring(wanted.mark from ', extensions (.*)$'), ''), ', ')) \gexec
\connect postgres
set synchronous_commit = local;
{% include "postgres/objects-quiet.sql" %}
\endif
{% endfor %}
select 'drop database pgprov_spare' from ({% include "postgres/spare.sql" %}) spare \gexec
-- Last: what failed half way is done again.
with
{% include "postgres/objects-wanted.sql" %}
select format('comment on %s %I is %L', case kind when 'user' then 'role' else kind end, name, mark) from wanted \gexec
