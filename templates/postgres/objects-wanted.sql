  -- Users and databases of the topology. Their comments say so, and what was granted or created with them: so it is known
  -- what goes when the topology no longer has it. What was made by hand has no such comment.
  wanted (kind, name, mark) as (
    select null, null, null where false
{% for user in lab.postgres.users %}    union all select 'user', '{{ user.name }}', '{% include "postgres/objects-user-mark.txt" %}'
{% endfor %}{% for database in lab.postgres.databases %}    union all select 'database', '{{ database.name }}', 'pgprov: from the topology{% if database.extensions %}, extensions {{ database.extensions | join(sep=", ") }}{% endif %}'
{% endfor %}  ),
  marked (kind, name, mark) as (
    select 'user', rolname::text, description from pg_shdescription join pg_roles on pg_roles.oid = objoid
      where classoid = 'pg_authid'::regclass and starts_with(description, 'pgprov: ')
    union all select 'database', datname::text, description from pg_shdescription join pg_database on pg_database.oid = objoid
      where classoid = 'pg_database'::regclass and starts_with(description, 'pgprov: ')
  ),
  gone (kind, name) as (
    select kind, name from marked
      where not exists (select from wanted where wanted.kind = marked.kind and wanted.name = marked.name)
        and name not in ('postgres', 'replicator', 'template0', 'template1'))
