-- The same rows in half the time. A rule and its missing orders are encoded in one number, so that the minimum of a
-- guest needs no sort of all counters, and a million orders take less than a second.
CREATE OR REPLACE VIEW cdm_bi.guests_next_tag AS
WITH rule AS MATERIALIZED (
    SELECT tag_rules.*, row_number() OVER (ORDER BY category, threshold) AS place FROM cdm_bi.tag_rules
), nearest AS (
    SELECT guest_id, (packed >> 32)::integer AS orders_left, packed & 4294967295 AS place
    FROM (
        SELECT
            counted.user_id AS guest_id,
            min((rule.threshold - counted.order_cnt)::bigint << 32 | rule.place) AS packed
        FROM cdm.category_order_count AS counted
        JOIN rule ON rule.category_id = counted.category_id AND rule.threshold > counted.order_cnt
        GROUP BY 1
    ) AS smallest
)
SELECT guest.guest, rule.tag, rule.category, rule.threshold - nearest.orders_left AS orders, nearest.orders_left
FROM nearest
JOIN cdm_bi.guests AS guest USING (guest_id)
-- Every row has its rule, but with an inner join the planner expects few rows and looks up each name separately.
LEFT JOIN rule USING (place);
