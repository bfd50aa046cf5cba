-- Prints t when objects.sql has nothing to do.
with wanted_slots(name) as (values (null){% for slot in slots %}, ('{{ slot }}'){% endfor %}),
  wanted_roles(name, verifier) as (values (null, null){% for name, user in users %}, ('{{ name }}', '{{ user.verifier }}'){% endfor %}),
  wanted_users(name, attributes) as (values (null, null){% for user in lab.postgres.users %}, ('{{ user.name }}', '{{ user.attributes | join(sep=",") }}'){% endfor %}),
  wanted_members(role, member) as (values (null, null){% for user in lab.postgres.users %}{% for group in user.member_of %}, ('{{ group }}', '{{ user.name }}'){% endfor %}{% endfor %}),
  wanted_databases(name, owner) as (values (null, null){% for database in lab.postgres.databases %}, ('{{ database.name }}', '{{ database.owner }}'){% endfor %})
select not exists (select from wanted_slots where name is not null and name not in (select slot_name from pg_replication_slots))
  and (pg_is_in_recovery() or (
    not exists (select from wanted_roles w left join pg_authid a on a.rolname = w.name
      where w.name is not null and (a.rolpassword is distinct from w.verifier or not a.rolcanlogin))
    and exists (select from pg_authid where rolname = 'replicator' and rolreplication)
    and not exists (select from wanted_users w left join pg_authid a on a.rolname = w.name
      where w.name is not null and w.attributes is distinct from concat_ws(',',
        case when a.rolsuper then 'superuser' end, case when a.rolcreatedb then 'createdb' end,
        case when a.rolcreaterole then 'createrole' end, case when a.rolreplication then 'replication' end,
        case when a.rolbypassrls then 'bypassrls' end))
    and not exists (select from wanted_members w where w.role is not null
      and not exists (select from pg_auth_members m where m.roleid = to_regrole(w.role) and m.member = to_regrole(w.member)))
    and not exists (select from wanted_databases w left join pg_database d on d.datname = w.name
      where w.name is not null and pg_get_userbyid(d.datdba) is distinct from w.owner)));
