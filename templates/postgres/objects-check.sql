{% include "postgres/objects-quiet.sql" %}
\g
-- Prints t when objects.sql has nothing to do. One pass over each catalog: this runs at every `pgprov up`.
with
{% include "postgres/objects-wanted.sql" %}
select {% if slots %}({% if lab.failover.engine == "pgagent" %}pg_is_in_recovery() or {% endif %}(select count(*) from pg_replication_slots where slot_name in ('{{ slots | join(sep="', '") }}')) = {{ slots | length }})
  and {% endif %}(pg_is_in_recovery() or (
    (select string_agg(rolname || ' ' || rolcanlogin || ' ' || coalesce(rolpassword, ''), ',' order by rolname collate "C") from pg_authid
      where rolname in ({% for name, user in users %}{% if not loop.first %}, {% endif %}'{{ name }}'{% endfor %}))
      = '{% for name, user in users %}{% if not loop.first %},{% endif %}{{ name }} true {{ user.verifier }}{% endfor %}'
    and (select rolreplication from pg_authid where rolname = 'replicator')
{% for user in lab.postgres.users %}    and (select (rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls)
      = ({% for attribute in role_attributes %}{% if not loop.first %}, {% endif %}{% if attribute in user.attributes %}true{% else %}false{% endif %}{% endfor %})
      from pg_authid where rolname = '{{ user.name }}')
{% for group in user.member_of %}    and exists (select from pg_auth_members where roleid = to_regrole('{{ group }}') and member = to_regrole('{{ user.name }}'))
{% endfor %}{% endfor %}{% for database in lab.postgres.databases %}    and exists (select from pg_database where datname = '{{ database.name }}' and datdba = to_regrole('{{ database.owner }}'))
{% endfor %}    and not exists (select from wanted where (kind, name, mark) not in (select kind, name, mark from marked))
    and not exists (select from gone)));
