"""The dashboard in a browser, with orders that were processed by the pipeline; `dashboard/test` starts both.

Every chart must be drawn. Every number that the browser receives is compared with a count of the orders as received.
This count must use neither the counters and their ledger nor the views of the dashboard.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

URL = os.environ["DASHBOARD_URL"]
PICTURE = os.environ.get("STREAMSTAGE_PICTURE")
CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --window-size=1440,1770""".split()
TIMEOUT_SECONDS = 90
# The queries that `dashboard/bench` measures.
MEASURED_QUERIES = (Path(__file__).parent / "queries.sql").read_text()

# Temporary tables with the closed orders as STG stores them, and with the expected content of the marts.
COUNT_TABLES = """
CREATE TEMP TABLE closed AS
    SELECT object_id, version, update_ts, payload->'payload' AS body
    FROM stg.order_events WHERE payload->'payload'->>'final_status' = 'CLOSED';
CREATE TEMP TABLE closed_dish AS
    SELECT DISTINCT object_id, version, h_user_pk, h_product_pk
    FROM closed CROSS JOIN json_array_elements(body->'order_items') AS item
    JOIN dds.h_product ON product_id = item->>'id' JOIN dds.h_user ON user_id = body->'user'->>'id';
CREATE TEMP TABLE by_category AS
    SELECT h_user_pk, category, count(DISTINCT object_id) AS orders
    FROM closed_dish JOIN dds.l_order_product USING (h_product_pk)
    JOIN dds.s_order_item USING (l_order_product_pk, version)
    GROUP BY 1, 2;
CREATE TEMP TABLE rule AS
    SELECT category_name AS category, coalesce(tag, category_name) AS tag, threshold
    FROM dds.h_category CROSS JOIN cdm.category_thresholds
    WHERE category = CASE WHEN category_name IN (SELECT category FROM cdm.category_thresholds)
        THEN category_name ELSE '*' END;
CREATE TEMP TABLE guest AS
    SELECT h_user_pk, format('%s (%s)', username, right(user_id, 6)) AS guest
    FROM dds.h_user JOIN dds.v_s_user_names_current USING (h_user_pk);
"""
# Columns that the browser receives for each chart, and a query for the same rows.
CHARTS: dict[str, tuple[list[str], str]] = {
    "Orders closed today": (
        ["total_orders"],
        "SELECT count(*) FROM closed WHERE update_ts::date = (SELECT max(update_ts)::date FROM closed)",
    ),
    "Orders closed over time": (
        ["closed_at", "total_orders"],
        "SELECT extract(epoch FROM date_trunc('hour', update_ts))::bigint * 1000, count(*) FROM closed GROUP BY 1",
    ),
    "Top dishes": (
        ["dish", "total_orders"],
        """SELECT name, count(*) FROM closed_dish JOIN dds.v_s_product_names_current USING (h_product_pk)
           GROUP BY 1 ORDER BY 2 DESC LIMIT 10""",
    ),
    "Top categories": (
        ["category", "total_orders"],
        "SELECT category, sum(orders)::bigint FROM by_category GROUP BY 1",
    ),
    "Guests by tag": (
        ["tag", "total_guests"],
        """SELECT tag, count(DISTINCT h_user_pk) FROM by_category JOIN rule USING (category)
           WHERE orders >= threshold GROUP BY 1""",
    ),
    "Guest's profile": (
        ["kind", "name", "orders", "orders_left"],
        """SELECT 'dish', name, count(*), NULL::bigint
           FROM closed_dish JOIN guest USING (h_user_pk) JOIN dds.v_s_product_names_current USING (h_product_pk)
           WHERE guest = %(guest)s GROUP BY h_product_pk, name
           UNION ALL
           SELECT 'category', category, orders, NULL FROM by_category JOIN guest USING (h_user_pk)
           WHERE guest = %(guest)s
           UNION ALL
           SELECT CASE WHEN orders < threshold THEN 'next tag' ELSE 'tag' END, tag, orders,
               nullif(greatest(threshold - orders, 0), 0)
           FROM by_category JOIN guest USING (h_user_pk) JOIN rule USING (category) WHERE guest = %(guest)s""",
    ),
    "Guests closest to their next tag": (
        ["guest", "orders_left"],
        """SELECT guest, min(threshold - orders)
           FROM by_category JOIN rule USING (category) JOIN guest USING (h_user_pk)
           WHERE orders < threshold GROUP BY h_user_pk, guest""",
    ),
    "How fresh the data is": (
        ["newest_order", "newest_load"],
        """SELECT (extract(epoch FROM max(update_ts)) * 1000)::float8,
               (SELECT (extract(epoch FROM max(load_dt)) * 1000)::float8 FROM dds.s_order_status)
           FROM stg.order_events""",
    ),
    "Dead letters by reason": (
        ["reason", "total_waiting"],
        "SELECT code, count(*) FROM streamstage.dead_letter GROUP BY 1",
    ),
}

# Script that returns the id and the text of each chart, and whether it is drawn.
CHART_STATES = """
const painted = canvas => {
    if (!canvas.width || !canvas.height) return 0;
    const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return bytes.filter((byte, index) => index % 4 == 3 && byte > 0).length;
};
return Object.fromEntries([...document.querySelectorAll('[data-test="chart-grid-component"]')].map(chart => [
    chart.dataset.testChartName,
    {
        id: chart.dataset.testChartId,
        text: chart.querySelector('.dashboard-chart')?.innerText ?? '',
        drawn: [...chart.querySelectorAll('canvas')].some(canvas => painted(canvas) > 1000)
            || chart.querySelectorAll('tbody tr td').length > 0
            || !!chart.querySelector('.big_number_total .header-line')?.innerText,
    },
]));
"""
FAILURE = re.compile(r"no results|no data|error|unexpected|something went wrong|timeout", re.IGNORECASE)


def connect(user: str) -> Any:
    """Connects to the warehouse; the address and the password are in the environment."""
    session = psycopg2.connect(user=user)
    session.autocommit = True
    return session


def normalize_query(query: str) -> str:
    """Removes line breaks, and replaces the guest by a variable."""
    return re.sub(r"guest IN \('[^']*'\)", "guest IN (:'guest')", " ".join(query.rstrip("; \n").split()))


def fetch_rows(cursor: Any, sql: str, parameters: dict[str, str] | None = None) -> list[tuple]:
    cursor.execute(sql, parameters)
    return cursor.fetchall()


class Dashboard(unittest.TestCase):
    """The dashboard as a manager sees it."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.counts = connect("postgres").cursor()
        cls.addClassCleanup(cls.counts.connection.close)
        cls.counts.execute(COUNT_TABLES)
        profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        cls.addClassCleanup(profile.cleanup)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={profile.name}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        cls.browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        cls.addClassCleanup(cls.browser.quit)
        cls.requests: list[tuple[str, str]] = []
        cls.blocked: set[str] = set()
        cls.pending: dict[str, str] = {}
        cls.results: dict[str, list[dict[str, Any]]] = {}
        cls.queries: set[str] = set()
        cls.charts: dict[str, dict[str, Any]] = {}
        try:
            cls.log_in()
            cls.browser.get(f"{URL}/superset/dashboard/guests/")
            cls.wait_until_drawn()
        finally:
            cls.save_picture()

    @classmethod
    def save_picture(cls) -> None:
        if PICTURE:
            png = Image.open(io.BytesIO(cls.browser.get_screenshot_as_png()))
            png.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)

    @classmethod
    def wait(cls, condition: Any) -> Any:
        # The page may redraw an element at any time.
        ignored = [StaleElementReferenceException, ElementClickInterceptedException]
        return WebDriverWait(cls.browser, TIMEOUT_SECONDS, 0.5, ignored).until(lambda _: condition())

    @classmethod
    def element(cls, selector: str) -> Any:
        """Waits for a visible element that matches the selector; returns the first one."""

        def visible() -> list[Any]:
            elements = cls.browser.find_elements(By.CSS_SELECTOR, selector)
            return [element for element in elements if element.is_displayed()]

        return cls.wait(visible)[0]

    @classmethod
    def click(cls, selector: str) -> None:
        def clicked() -> bool:
            cls.element(selector).click()
            return True

        cls.wait(clicked)

    @classmethod
    def log_in(cls) -> None:
        cls.browser.get(f"{URL}/login/")
        cls.element("#username").send_keys("admin")
        cls.element("#password").send_keys(os.environ["DASHBOARD_PASSWORD"])
        cls.click("[data-test=login-button]")
        cls.wait(lambda: "/login" not in cls.browser.current_url)

    @classmethod
    def wait_until_drawn(cls) -> None:
        """Waits until every chart is drawn or shows an error, and its result has been received."""

        def is_complete() -> bool:
            cls.read_network_log()
            cls.charts = cls.browser.execute_script(CHART_STATES)
            done = [name for name, chart in cls.charts.items() if chart["drawn"] or FAILURE.search(chart["text"])]
            return len(done) >= len(CHARTS) and all(cls.charts[name]["id"] in cls.results for name in done)

        try:
            cls.wait(is_complete)
        except TimeoutException as error:
            state = f"{cls.charts}, results of {list(cls.results)}"
            raise AssertionError(f"not drawn within {TIMEOUT_SECONDS} s: {state}") from error

    @classmethod
    def read_network_log(cls) -> None:
        """Processes the requests and responses of the browser since the last call."""
        for entry in cls.browser.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            method, details = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                cls.requests.append((details["requestId"], details["request"]["url"]))
            elif method == "Network.loadingFailed" and details.get("blockedReason") == "csp":
                cls.blocked.add(details["requestId"])
            elif method == "Network.responseReceived" and "/api/v1/chart/data" in details["response"]["url"]:
                cls.pending[details["requestId"]] = details["response"]["url"]
            elif method == "Network.loadingFinished" and details["requestId"] in cls.pending:
                cls.store_result(details["requestId"])

    @classmethod
    def store_result(cls, request: str) -> None:
        """Stores the result of a chart or a filter."""
        chart = re.search(r"slice_id%22%3A(\d+)", cls.pending.pop(request))
        # The browser may have discarded the response; the dashboard then repeats the request.
        with contextlib.suppress(WebDriverException):
            response = cls.browser.execute_cdp_cmd("Network.getResponseBody", {"requestId": request})
            # An error has no result; another test checks that no chart shows an error.
            result = json.loads(response["body"]).get("result", [{}])[0]
            if "query" in result:
                cls.queries.add(normalize_query(result["query"]))
            if chart:
                cls.results[chart[1]] = result.get("data", [])

    def result(self, name: str) -> list[tuple]:
        columns, _ = CHARTS[name]
        # A time is in milliseconds; the precision of a float is just enough for microseconds.
        return [
            tuple(round(row[column], 3) if isinstance(row[column], float) else row[column] for column in columns)
            for row in self.results[self.charts[name]["id"]]
        ]

    def test_every_chart_is_drawn_without_an_error(self) -> None:
        self.assertEqual(set(self.charts), set(CHARTS))
        for name, chart in self.charts.items():
            with self.subTest(name):
                self.assertNotRegex(chart["text"], FAILURE)
                self.assertTrue(chart["drawn"], chart["text"])

    def test_every_number_equals_an_independent_count(self) -> None:
        guest = self.element("[data-test=filter-bar] .ant-select-selection-item").text
        for name, (_, sql) in CHARTS.items():
            with self.subTest(name):
                expected = fetch_rows(self.counts, sql, {"guest": guest})
                self.assertGreater(len(expected), 0)
                self.assertCountEqual(self.result(name), expected)

    def test_the_page_shows_the_counted_values(self) -> None:
        [(today,)] = fetch_rows(self.counts, CHARTS["Orders closed today"][1])
        self.assertGreater(today, 0)
        self.assertIn(f"{today:,}", self.charts["Orders closed today"]["text"])
        [(tag,)] = fetch_rows(self.counts, "SELECT tag FROM rule WHERE category = 'Роллы'")
        self.assertIn(tag, self.charts["Guests closest to their next tag"]["text"])

    def test_the_filter_selects_the_profile_of_another_guest(self) -> None:
        [(guest,)] = fetch_rows(
            self.counts, "SELECT guest FROM by_category JOIN guest USING (h_user_pk) GROUP BY 1 ORDER BY 1 DESC LIMIT 1"
        )
        expected = fetch_rows(self.counts, CHARTS["Guest's profile"][1], {"guest": guest})
        self.assertNotEqual(Counter(self.result("Guest's profile")), Counter(expected))
        self.click("[data-test=filter-bar] .ant-select-selector")
        self.element("[data-test=filter-bar] input[role=combobox]").send_keys(guest)
        self.click(f'.ant-select-item-option[title="{guest}"]')
        self.click("[data-test=filter-bar__apply-button]")

        def has_the_profile() -> bool:
            self.read_network_log()
            return Counter(self.result("Guest's profile")) == Counter(expected)

        self.wait(has_the_profile)

    def test_the_browser_connects_only_to_superset(self) -> None:
        def external_requests() -> list[str]:
            self.read_network_log()
            sent = [url for request, url in self.requests if request not in self.blocked]
            return [url for url in sent if re.match("(https?|wss?):", url) and not url.startswith(f"{URL}/")]

        with contextlib.suppress(TimeoutException):
            self.wait(lambda: not external_requests())
        self.assertEqual(external_requests(), [])

    def test_the_benchmark_measures_every_query_of_the_page(self) -> None:
        measured = {normalize_query(query) for query in re.split("^-- .*$", MEASURED_QUERIES, flags=re.MULTILINE)}
        self.assertGreater(len(self.queries), len(CHARTS))
        self.assertLessEqual(self.queries, measured)


class Reader(unittest.TestCase):
    """Permissions of the dashboard's login."""

    READABLE = {"orders_closed", "orders_closed_today", "dishes", "categories", "tags", "guests", "guests_next_tag",
            "guest_profile", "freshness", "dead_letters"}

    def setUp(self) -> None:
        self.reader = connect("streamstage_dashboard").cursor()
        self.addCleanup(self.reader.connection.close)
        owner = connect("postgres").cursor()
        self.addCleanup(owner.connection.close)
        # Every table, view and sequence of StreamStage, with true if the reader has any write permission.
        self.relations = fetch_rows(
            owner,
            """SELECT nspname, relname, has_table_privilege('streamstage_dashboard', pg_class.oid,
                   'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
               FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
               WHERE nspname IN ('stg', 'dds', 'cdm', 'streamstage', 'cdm_bi') AND relkind IN ('r', 'v', 'm', 'S')""",
        )

    def test_it_can_only_read_the_views_of_the_dashboard(self) -> None:
        self.assertGreater(len(self.relations), 50)
        for schema, name, _ in self.relations:
            with self.subTest(f"{schema}.{name}"):
                statement = f"SELECT FROM {schema}.{name} LIMIT 1"
                if schema == "cdm_bi" and name in self.READABLE:
                    self.reader.execute(statement)
                else:
                    with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                        self.reader.execute(statement)

    def test_it_cannot_write(self) -> None:
        for schema, name, can_write in self.relations:
            self.assertFalse(can_write, f"{schema}.{name}")
        for statement in ("DELETE FROM cdm.entity_name", "INSERT INTO dds.h_user DEFAULT VALUES", "TRUNCATE stg.order_events",
                          "CREATE SCHEMA mine", "CREATE TABLE cdm_bi.mine ()", "CREATE TABLE public.mine ()"):
            with self.subTest(statement), self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                self.reader.execute(statement)


if __name__ == "__main__":
    unittest.main(verbosity=2)
