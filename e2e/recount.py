#!/usr/bin/env python3
"""Counts each user's closed orders by the specification of the marts, from the produced messages alone.

It shares nothing with the worker: no code, no table, no topic. Reads the file that `orders --to-file` writes, the
reference data as a JSON object of id -> entry, and the tag rules as a JSON list. Prints one JSON object with
"products" and "categories" (lists of [user, product or category, count]) and "tags" ([user, category, tag]).
"""
import argparse
import hashlib
import json
import unicodedata

RANKS = {"OPEN": 1, "COOKING": 2, "DELIVERING": 3, "CLOSED": 4, "CANCELLED": 5}


def normalize(text):
    return unicodedata.normalize("NFC", text).strip()


def latest_orders(path):
    """The payload of the latest version of every order: by time, then status, then send time, then digest of the value."""
    latest = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["expected"] != "Good":
                continue
            value = record["value"]
            message = json.loads(value)
            order = message["payload"]
            digest = hashlib.sha256(value.encode("utf-8")).digest()
            version = (order["update_ts"], RANKS.get(order["final_status"], 0), message["sent_dttm"], digest)
            current = latest.get(message["object_id"])
            if current is None or current[0] < version:
                latest[message["object_id"]] = (version, order)
    return [order for _, order in latest.values()]


def menu_categories(path):
    """The category of every product, by restaurant and product."""
    categories = {}
    with open(path, encoding="utf-8") as file:
        for key, entry in json.load(file).items():
            for product in entry.get("menu", []):
                categories[key, normalize(product["_id"])] = normalize(product["category"])
    return categories


def count(orders, categories):
    by_product, by_category = {}, {}
    for order in orders:
        if order["final_status"] != "CLOSED":
            continue
        user = normalize(order["user"]["id"])
        restaurant = normalize(order["restaurant"]["id"])
        products = {normalize(item["id"]) for item in order["order_items"]}
        for product in products:
            by_product[user, product] = by_product.get((user, product), 0) + 1
        for category in {categories[restaurant, product] for product in products}:
            by_category[user, category] = by_category.get((user, category), 0) + 1
    return by_product, by_category


def assign_tags(by_category, rules):
    rules_by_category = {}
    for rule in rules:
        rules_by_category.setdefault(normalize(rule["category"]), []).append(rule)
    tags = set()
    for (user, category), orders in by_category.items():
        for rule in rules_by_category.get(category, rules_by_category.get("*", [])):
            if orders >= rule["threshold"]:
                tags.add((user, category, rule.get("tag") or category))
    return tags


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--messages", "--reference-data", "--tags"):
        parser.add_argument(flag, required=True)
    flags = parser.parse_args()
    by_product, by_category = count(latest_orders(flags.messages), menu_categories(flags.reference_data))
    with open(flags.tags, encoding="utf-8") as file:
        tags = assign_tags(by_category, json.load(file))
    print(json.dumps({
        "products": sorted([*key, orders] for key, orders in by_product.items()),
        "categories": sorted([*key, orders] for key, orders in by_category.items()),
        "tags": sorted(map(list, tags)),
    }, ensure_ascii=False))


if __name__ == "__main__":
    main()
