with
{% include "postgres/objects-wanted.sql" %}
select name from gone where kind = 'database' and not pg_is_in_recovery();
