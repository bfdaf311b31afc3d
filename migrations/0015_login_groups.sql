-- A role per layer, and rows per consumer group: a login that an attacker controls reaches only what its stage needs.
-- Logins with the role streamstage_worker keep their permissions, until streamstage.login_group names them.

DO $$
DECLARE
    layer text;
BEGIN
    FOREACH layer IN ARRAY ARRAY['stg', 'dds', 'cdm'] LOOP
        -- Without a creation, the login of the migration needs no permission to create roles.
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'streamstage_' || layer) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', 'streamstage_' || layer);
            EXCEPTION
                -- Roles belong to the server: the migration of another database may create it at this moment.
                WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- Consumer groups of a login. A login with rows here may use the rows of these groups only. Without rows here, a member of
-- streamstage_worker may use those of every group, and a member of the role of a layer may not use any.
CREATE TABLE streamstage.login_group (
    login          name NOT NULL,
    consumer_group text NOT NULL,
    PRIMARY KEY (login, consumer_group)
);

COMMENT ON TABLE streamstage.login_group IS
    'Consumer groups whose positions, dead letters, holds, pending orders and tag rules a login may read and write.';
COMMENT ON COLUMN streamstage.login_group.login IS 'Name of the login, as in session_user.';

GRANT USAGE ON SCHEMA streamstage TO streamstage_stg, streamstage_dds, streamstage_cdm;
GRANT SELECT ON streamstage.login_group TO streamstage_worker, streamstage_stg, streamstage_dds, streamstage_cdm;
GRANT SELECT ON streamstage._sqlx_migrations TO streamstage_stg, streamstage_dds, streamstage_cdm;
GRANT SELECT, INSERT, UPDATE ON streamstage.position, streamstage.dead_letter, streamstage.hold
    TO streamstage_stg, streamstage_dds, streamstage_cdm;

-- STG samples the hubs of the reference data at its start.
GRANT USAGE ON SCHEMA stg, dds TO streamstage_stg;
GRANT SELECT, INSERT, UPDATE ON stg.order_events TO streamstage_stg;
GRANT SELECT, INSERT ON stg.order_event_history TO streamstage_stg;
GRANT SELECT, INSERT, UPDATE, DELETE ON stg.pending_enrichment TO streamstage_stg;
GRANT SELECT ON dds.h_user, dds.h_restaurant TO streamstage_stg;

-- DDS finds in STG the send times of versions whose messages lack them.
GRANT USAGE ON SCHEMA stg, dds TO streamstage_dds;
GRANT SELECT (object_id, version) ON stg.order_events, stg.order_event_history TO streamstage_dds;
DO $$
DECLARE
    vault_grant text;
BEGIN
    FOR vault_grant IN
        SELECT format('GRANT %s ON %s TO streamstage_dds', privilege, relation.oid::regclass)
        FROM pg_class AS relation CROSS JOIN unnest(ARRAY['SELECT', 'INSERT']) AS privilege
        WHERE relation.relnamespace = 'dds'::regnamespace AND relation.relkind IN ('r', 'v')
            AND has_table_privilege('streamstage_worker', relation.oid, privilege)
    LOOP
        EXECUTE vault_grant;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA cdm TO streamstage_cdm;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON cdm.order_contribution, cdm.product_order_count, cdm.category_order_count, cdm.entity_name, cdm.category_thresholds
    TO streamstage_cdm;
GRANT SELECT ON cdm.user_product_counters, cdm.user_category_counters, cdm.user_tags TO streamstage_cdm;

-- The subqueries depend on no row, so they run once per statement. The owner of the tables and the views of dashboards,
-- which read with the owner's permissions, are not restricted.
DO $$
DECLARE
    keyed regclass;
BEGIN
    FOREACH keyed IN ARRAY ARRAY[
        'streamstage.position', 'streamstage.dead_letter', 'streamstage.hold', 'stg.pending_enrichment',
        'cdm.category_thresholds'
    ]::regclass[] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', keyed);
        EXECUTE format($sql$
            CREATE POLICY groups_of_login ON %s
            TO streamstage_worker, streamstage_stg, streamstage_dds, streamstage_cdm
            USING (consumer_group = ANY (ARRAY(
                SELECT own.consumer_group FROM streamstage.login_group AS own WHERE own.login = session_user)))
        $sql$, keyed);
        EXECUTE format($sql$
            CREATE POLICY every_group ON %s TO streamstage_worker
            USING (NOT EXISTS (SELECT FROM streamstage.login_group AS own WHERE own.login = session_user))
        $sql$, keyed);
    END LOOP;
END
$$;

-- No program creates temporary tables, with which any login could fill the disk. An explicit CONNECT lets administrators
-- revoke that of PUBLIC.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO streamstage_worker, streamstage_stg, streamstage_dds, streamstage_cdm, '
        'streamstage_reader', current_database());
END
$$;
