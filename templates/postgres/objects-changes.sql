{% include "postgres/objects-quiet.sql" %}
-- What objects.sql would do, for the plan.
with
{% include "postgres/objects-wanted.sql" %}
select line from (
  select '+ create user ' || name from wanted where kind = 'user' and name not in (select rolname from pg_roles)
  union all select '+ create database ' || name from wanted where kind = 'database' and name not in (select datname from pg_database)
{% for user in lab.postgres.users %}  union all select '~ change the attributes of user {{ user.name }}' from pg_roles where rolname = '{{ user.name }}'
    and (rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls)
      <> ({% for attribute in role_attributes %}{% if not loop.first %}, {% endif %}{% if attribute in user.attributes %}true{% else %}false{% endif %}{% endfor %})
{% endfor %}{% for database in lab.postgres.databases %}  union all select '~ give database {{ database.name }} to {{ database.owner }}' from pg_database where datname = '{{ database.name }}'
    and datdba is distinct from to_regrole('{{ database.owner }}')::oid
{% endfor %}  union all select format('~ %s %s: %s', kind, name, coalesce('now ' || nullif(regexp_replace(wanted.mark, '^pgprov: from the topology,? ?', ''), ''), 'less than before'))
    from wanted join marked using (kind, name) where wanted.mark <> marked.mark
  union all select '- drop user ' || name from gone where kind = 'user'
  union all select '! drop database ' || name || ' and all data in it' from gone where kind = 'database'
) as changes (line) where not pg_is_in_recovery();
