#!/usr/bin/env python3
"""Counts each guest's closed orders by the definition, from the produced messages alone.

It shares nothing with the worker: no code, no table, no topic. Reads the file that `orders --to-file` writes, the
dictionary as a JSON object of id -> entry, and the rules of the tags as a JSON list; prints one JSON object with
"products" and "categories" (lists of [user, dish or category, count]) and "tags" ([user, category, tag]).
"""
import argparse
import hashlib
import json
import unicodedata

RANKS = {"OPEN": 1, "COOKING": 2, "DELIVERING": 3, "CLOSED": 4, "CANCELLED": 5}


def normal(text):
    return unicodedata.normalize("NFC", text).strip()


def newest_orders(path):
    """The payload of the newest version of every order: by time, then status, then digest of the value."""
    newest = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["expected"] != "Good":
                continue
            value = record["value"]
            message = json.loads(value)
            order = message["payload"]
            digest = hashlib.sha256(value.encode("utf-8")).digest()
            version = (order["update_ts"], RANKS.get(order["final_status"], 0), digest)
            held = newest.get(message["object_id"])
            if held is None or held[0] < version:
                newest[message["object_id"]] = (version, order)
    return [order for _, order in newest.values()]


def menus(path):
    """The category of every dish, by restaurant and dish."""
    categories = {}
    with open(path, encoding="utf-8") as file:
        for key, entry in json.load(file).items():
            for dish in entry.get("menu", []):
                categories[key, dish["_id"]] = normal(dish["category"])
    return categories


def count(orders, categories):
    products, by_category = {}, {}
    for order in orders:
        if order["final_status"] != "CLOSED":
            continue
        user = normal(order["user"]["id"])
        dishes = {item["id"] for item in order["order_items"]}
        for dish in {normal(dish) for dish in dishes}:
            products[user, dish] = products.get((user, dish), 0) + 1
        for category in {categories[order["restaurant"]["id"], dish] for dish in dishes}:
            by_category[user, category] = by_category.get((user, category), 0) + 1
    return products, by_category


def tags(by_category, rules):
    own = {}
    for rule in rules:
        own.setdefault(normal(rule["category"]), []).append(rule)
    found = set()
    for (user, category), orders in by_category.items():
        for rule in own.get(category, own.get("*", [])):
            if orders >= rule["threshold"]:
                found.add((user, category, rule.get("tag") or category))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--messages", "--dictionary", "--tags"):
        parser.add_argument(flag, required=True)
    flags = parser.parse_args()
    products, by_category = count(newest_orders(flags.messages), menus(flags.dictionary))
    with open(flags.tags, encoding="utf-8") as file:
        found = tags(by_category, json.load(file))
    print(json.dumps({
        "products": sorted([*key, orders] for key, orders in products.items()),
        "categories": sorted([*key, orders] for key, orders in by_category.items()),
        "tags": sorted(map(list, found)),
    }, ensure_ascii=False))


if __name__ == "__main__":
    main()
