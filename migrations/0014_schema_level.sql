-- `worker check` compares the applied migrations with those that the worker was built with.
GRANT SELECT ON streamstage._sqlx_migrations TO streamstage_worker;
