-- Slow or not, in error or not: statements with verifiers do not belong in the log.
set log_min_duration_statement = -1;
set log_statement = none;
set log_min_error_statement = panic;
set client_min_messages = warning;
