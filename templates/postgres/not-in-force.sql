-- Values of the files are in force unless a session, a role or a database has its own.
select format('%s:%s: %s is still %s', file.sourcefile, file.sourceline, file.name, setting.setting)
  from pg_file_settings file join pg_settings setting using (name)
  where applied and setting.source in ('default', 'configuration file') and setting.context not in ('internal', 'postmaster')
    and (setting.sourcefile, setting.sourceline) is distinct from (file.sourcefile, file.sourceline);
