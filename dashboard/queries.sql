-- Orders closed today
SELECT SUM(orders) AS total_orders
FROM cdm_bi.orders_closed_today
LIMIT 50000;

-- Orders closed over time
SELECT DATE_TRUNC('hour', closed_at) AS closed_at, SUM(orders) AS total_orders
FROM cdm_bi.orders_closed GROUP BY DATE_TRUNC('hour', closed_at) ORDER BY total_orders DESC
LIMIT 10000;

-- Orders closed over time, with the filter "Step" at days
SELECT DATE_TRUNC('day', closed_at) AS closed_at, SUM(orders) AS total_orders
FROM cdm_bi.orders_closed GROUP BY DATE_TRUNC('day', closed_at) ORDER BY total_orders DESC
LIMIT 10000;

-- Top dishes
SELECT dish AS dish, SUM(orders) AS total_orders
FROM cdm_bi.dishes GROUP BY dish ORDER BY total_orders DESC
LIMIT 10;

-- Top categories
SELECT category AS category, SUM(orders) AS total_orders
FROM cdm_bi.categories GROUP BY category ORDER BY total_orders DESC
LIMIT 10;

-- Guests by tag
SELECT tag AS tag, SUM(guests) AS total_guests
FROM cdm_bi.tags GROUP BY tag ORDER BY total_guests DESC
LIMIT 20;

-- The filter "Guest"
SELECT guest AS guest
FROM cdm_bi.guests GROUP BY guest ORDER BY guest ASC
LIMIT 1000;

-- The filter "Guest", with a name being typed
SELECT guest AS guest
FROM cdm_bi.guests
WHERE guest ILIKE '%uest 00%' GROUP BY guest ORDER BY guest ASC
LIMIT 1000;

-- Guest's profile
SELECT kind AS kind, name AS name, orders AS orders, orders_left AS orders_left
FROM cdm_bi.guest_profile
WHERE guest IN (:'guest') ORDER BY kind DESC, orders DESC, name ASC
LIMIT 1000;

-- Guests closest to their next tag
SELECT guest AS guest, tag AS tag, orders AS orders, orders_left AS orders_left
FROM cdm_bi.guests_next_tag ORDER BY orders_left ASC, orders DESC, guest ASC
LIMIT 1000;

-- How fresh the data is
SELECT newest_order AS newest_order, newest_load AS newest_load, seconds_since_load AS seconds_since_load
FROM cdm_bi.freshness
LIMIT 10;

-- Dead letters by reason
SELECT reason AS reason, SUM(waiting) AS total_waiting
FROM cdm_bi.dead_letters GROUP BY reason ORDER BY total_waiting DESC
LIMIT 20;
