"""The dashboard in a browser, on orders that went through the pipeline; `dashboard/test` starts both.

Every chart must have drawn, and every number that the browser got is compared with one that is counted here from the
orders as they came: neither the counters and their ledger nor the views of the dashboard are read for it.
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
SECONDS = 90
# What `dashboard/bench` measures.
MEASURED = (Path(__file__).parent / "queries.sql").read_text()

# The closed orders as STG keeps them, and what the marts should say of them.
COUNTED = """
CREATE TEMP TABLE closed AS
    SELECT object_id, update_ts, payload->'payload' AS body
    FROM stg.order_events WHERE payload->'payload'->>'final_status' = 'CLOSED';
CREATE TEMP TABLE closed_dish AS
    SELECT DISTINCT object_id, h_user_pk, h_product_pk
    FROM closed CROSS JOIN json_array_elements(body->'order_items') AS item
    JOIN dds.h_product ON product_id = item->>'id' JOIN dds.h_user ON user_id = body->'user'->>'id';
CREATE TEMP TABLE by_category AS
    SELECT h_user_pk, category_name AS category, count(DISTINCT object_id) AS orders
    FROM closed_dish JOIN dds.l_product_category USING (h_product_pk) JOIN dds.h_category USING (h_category_pk)
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
# Of each chart the columns that the browser gets, and the same rows by hand.
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

# What the page shows of each chart: its id, its text, and how much of it is painted or listed.
SHOWN = """
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
    """A session with the warehouse; the address and the password come from the environment."""
    session = psycopg2.connect(user=user)
    session.autocommit = True
    return session


def normal(query: str) -> str:
    """A query without its line breaks, and with a variable for the guest."""
    return re.sub(r"guest IN \('[^']*'\)", "guest IN (:'guest')", " ".join(query.rstrip("; \n").split()))


def rows_of(cursor: Any, sql: str, parameters: dict[str, str] | None = None) -> list[tuple]:
    cursor.execute(sql, parameters)
    return cursor.fetchall()


class Dashboard(unittest.TestCase):
    """What a manager sees."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.counted = connect("postgres").cursor()
        cls.addClassCleanup(cls.counted.connection.close)
        cls.counted.execute(COUNTED)
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
        cls.awaited: dict[str, str] = {}
        cls.answers: dict[str, list[dict[str, Any]]] = {}
        cls.queries: set[str] = set()
        cls.shown: dict[str, dict[str, Any]] = {}
        try:
            cls.log_in()
            cls.browser.get(f"{URL}/superset/dashboard/guests/")
            cls.wait_until_drawn()
        finally:
            cls.keep_picture()

    @classmethod
    def keep_picture(cls) -> None:
        if PICTURE:
            png = Image.open(io.BytesIO(cls.browser.get_screenshot_as_png()))
            png.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)

    @classmethod
    def wait(cls, condition: Any) -> Any:
        # The page draws an element anew whenever it likes.
        ignored = [StaleElementReferenceException, ElementClickInterceptedException]
        return WebDriverWait(cls.browser, SECONDS, 0.5, ignored).until(lambda _: condition())

    @classmethod
    def element(cls, selector: str) -> Any:
        """The first element of that kind, as soon as there is one that is shown."""

        def shown() -> list[Any]:
            return [one for one in cls.browser.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]

        return cls.wait(shown)[0]

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
        """Every chart has drawn or says why it has not, and the answer of each has come."""

        def settled() -> bool:
            cls.listen()
            cls.shown = cls.browser.execute_script(SHOWN)
            ended = [name for name, chart in cls.shown.items() if chart["drawn"] or FAILURE.search(chart["text"])]
            return len(ended) >= len(CHARTS) and all(cls.shown[name]["id"] in cls.answers for name in ended)

        try:
            cls.wait(settled)
        except TimeoutException as error:
            answered = f"{cls.shown}, answered {list(cls.answers)}"
            raise AssertionError(f"not drawn within {SECONDS} s: {answered}") from error

    @classmethod
    def listen(cls) -> None:
        """Takes what the browser has sent and received since it was asked last."""
        for entry in cls.browser.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            method, details = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                cls.requests.append((details["requestId"], details["request"]["url"]))
            elif method == "Network.loadingFailed" and details.get("blockedReason") == "csp":
                cls.blocked.add(details["requestId"])
            elif method == "Network.responseReceived" and "/api/v1/chart/data" in details["response"]["url"]:
                cls.awaited[details["requestId"]] = details["response"]["url"]
            elif method == "Network.loadingFinished" and details["requestId"] in cls.awaited:
                cls.take(details["requestId"])

    @classmethod
    def take(cls, request: str) -> None:
        """Takes the answer of a chart or a filter."""
        chart = re.search(r"slice_id%22%3A(\d+)", cls.awaited.pop(request))
        # The browser may have dropped it; the dashboard asks again by itself.
        with contextlib.suppress(WebDriverException):
            got = cls.browser.execute_cdp_cmd("Network.getResponseBody", {"requestId": request})
            # An error has no result; that the chart says so is another test's affair.
            result = json.loads(got["body"]).get("result", [{}])[0]
            if "query" in result:
                cls.queries.add(normal(result["query"]))
            if chart:
                cls.answers[chart[1]] = result.get("data", [])

    def answer(self, name: str) -> list[tuple]:
        columns, _ = CHARTS[name]
        # A time is a number of milliseconds, whose microseconds a float only just holds.
        return [
            tuple(round(row[column], 3) if isinstance(row[column], float) else row[column] for column in columns)
            for row in self.answers[self.shown[name]["id"]]
        ]

    def test_every_chart_has_drawn_and_none_shows_an_error(self) -> None:
        self.assertEqual(set(self.shown), set(CHARTS))
        for name, chart in self.shown.items():
            with self.subTest(name):
                self.assertNotRegex(chart["text"], FAILURE)
                self.assertTrue(chart["drawn"], chart["text"])

    def test_every_number_is_that_of_an_independent_count(self) -> None:
        guest = self.element("[data-test=filter-bar] .ant-select-selection-item").text
        for name, (_, sql) in CHARTS.items():
            with self.subTest(name):
                expected = rows_of(self.counted, sql, {"guest": guest})
                self.assertGreater(len(expected), 0)
                self.assertCountEqual(self.answer(name), expected)

    def test_what_is_read_in_the_page_is_what_was_counted(self) -> None:
        [(today,)] = rows_of(self.counted, CHARTS["Orders closed today"][1])
        self.assertGreater(today, 0)
        self.assertIn(f"{today:,}", self.shown["Orders closed today"]["text"])
        [(tag,)] = rows_of(self.counted, "SELECT tag FROM rule WHERE category = 'Роллы'")
        self.assertIn(tag, self.shown["Guests closest to their next tag"]["text"])

    def test_the_filter_shows_the_profile_of_another_guest(self) -> None:
        [(guest,)] = rows_of(
            self.counted, "SELECT guest FROM by_category JOIN guest USING (h_user_pk) GROUP BY 1 ORDER BY 1 DESC LIMIT 1"
        )
        expected = rows_of(self.counted, CHARTS["Guest's profile"][1], {"guest": guest})
        self.assertNotEqual(Counter(self.answer("Guest's profile")), Counter(expected))
        self.click("[data-test=filter-bar] .ant-select-selector")
        self.element("[data-test=filter-bar] input[role=combobox]").send_keys(guest)
        self.click(f'.ant-select-item-option[title="{guest}"]')
        self.click("[data-test=filter-bar__apply-button]")

        def shows_that_guest() -> bool:
            self.listen()
            return Counter(self.answer("Guest's profile")) == Counter(expected)

        self.wait(shows_that_guest)

    def test_the_browser_reaches_nothing_but_superset(self) -> None:
        def elsewhere() -> list[str]:
            self.listen()
            sent = [url for request, url in self.requests if request not in self.blocked]
            return [url for url in sent if re.match("(https?|wss?):", url) and not url.startswith(f"{URL}/")]

        with contextlib.suppress(TimeoutException):
            self.wait(lambda: not elsewhere())
        self.assertEqual(elsewhere(), [])

    def test_every_query_of_the_page_is_one_that_the_bench_measures(self) -> None:
        measured = {normal(query) for query in re.split("^-- .*$", MEASURED, flags=re.MULTILINE)}
        self.assertGreater(len(self.queries), len(CHARTS))
        self.assertLessEqual(self.queries, measured)


class Reader(unittest.TestCase):
    """What the login of the dashboard may do."""

    READ = {"orders_closed", "orders_closed_today", "dishes", "categories", "tags", "guests", "guests_next_tag",
            "guest_profile", "freshness", "dead_letters"}

    def setUp(self) -> None:
        self.reader = connect("streamstage_dashboard").cursor()
        self.addCleanup(self.reader.connection.close)
        owner = connect("postgres").cursor()
        self.addCleanup(owner.connection.close)
        # Of each table, view and sequence of StreamStage whether the reader has any right to write.
        self.relations = rows_of(
            owner,
            """SELECT nspname, relname, has_table_privilege('streamstage_dashboard', pg_class.oid,
                   'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
               FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
               WHERE nspname IN ('stg', 'dds', 'cdm', 'streamstage', 'cdm_bi') AND relkind IN ('r', 'v', 'm', 'S')""",
        )

    def test_it_reads_the_views_of_the_dashboard_and_nothing_else(self) -> None:
        self.assertGreater(len(self.relations), 50)
        for schema, name, _ in self.relations:
            with self.subTest(f"{schema}.{name}"):
                statement = f"SELECT FROM {schema}.{name} LIMIT 1"
                if schema == "cdm_bi" and name in self.READ:
                    self.reader.execute(statement)
                else:
                    with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                        self.reader.execute(statement)

    def test_it_writes_nowhere(self) -> None:
        for schema, name, writes in self.relations:
            self.assertFalse(writes, f"{schema}.{name}")
        for statement in ("DELETE FROM cdm.name", "INSERT INTO dds.h_user DEFAULT VALUES", "TRUNCATE stg.order_events",
                          "CREATE SCHEMA mine", "CREATE TABLE cdm_bi.mine ()", "CREATE TABLE public.mine ()"):
            with self.subTest(statement), self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                self.reader.execute(statement)


if __name__ == "__main__":
    unittest.main(verbosity=2)
