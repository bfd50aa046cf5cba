select from pg_database where datname = 'pgprov_spare' and shobj_description(oid, 'pg_database') = 'spare'
