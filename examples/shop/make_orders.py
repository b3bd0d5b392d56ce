#!/usr/bin/env python3
"""Writes orders.csv: a day of orders at a tool shop, some of them as spoilt as real ones.

Deterministic: the same file on every machine. Run it beside this file: ./make_orders.py
"""

import csv
import pathlib
import random

LINES = 3000
FIRST = """Anna Jonas Mira Paul Lea Felix Emma Noah Ida Karl Sofia Emil Clara Theo Greta Anton Marie
Oskar Ella Jakob Frieda Hugo Zoë Luis Martha Ben Renée Max Nora Till Åsa Søren Inés Łukasz""".split()
LAST = """Müller Schmidt Fischer Weber Meyer Wagner Becker Schulz Hoffmann Koch Richter Klein Wolf
Schröder Neumann Schwarz Braun Zimmermann Krüger Hartmann Lange Nowak Lindqvist Moreau Rossi Jansen
O'Brien Novák García Dąbrowski""".split()
FIRMS = ["Brandt & Söhne, Tischlerei", "Hof Lindental", 'Garage "Am Tor"', "Metallbau Ost, Inh. Krüger",
         "Stadtwerke Neuhafen", "Baumpflege Grün"]
PRODUCTS = [("HT-200", "hand drill"), ("HT-450", "hammer drill"), ("CS-185", "circular saw"),
            ("BG-125", "bench grinder"), ("AC-24", "air compressor"), ("PW-130", "pressure washer"),
            ("LM-46", "lawn mower"), ("HS-60", "hedge trimmer")]
PARTS = """air-filter bearing blade bolt carbon-brush chuck drive-belt gasket hose nut o-ring oil-filter
spark-plug switch washer""".split()
MANY = {"bolt": 12, "nut": 12, "washer": 24, "o-ring": 6, "gasket": 3}

random.seed(20261117)


def plain(text):
    """As it stands in a mail address."""
    table = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa", "ł": "l",
                           "ë": "e", "é": "e", "í": "i", "á": "a", "ą": "a", "'": ""})
    return text.lower().translate(table)


def customer():
    if random.random() < 0.08:
        firm = random.choice(FIRMS)
        return firm, "einkauf@" + "".join(c for c in plain(firm) if c.isalnum()) + ".example"
    first, last = random.choice(FIRST), random.choice(LAST)
    host = random.choice(["post", "mail", "web"])
    return f"{first} {last}", f"{plain(first)}.{plain(last)}@{host}.example"


def order(number):
    name, email = customer()
    model, product = random.choice(PRODUCTS)
    # The rest of a number is random; that no two are the same, its first digits see to.
    serial = f"{model}-2026-{number - 100000:04}{random.randrange(100):02}"
    if random.random() < 0.07:
        product += " (refurbished)"
    parts = random.sample(PARTS, random.choice([1, 1, 2, 2, 3, 4]))
    parts = ";".join(f"{part}:{random.randint(1, MANY.get(part, 2))}" for part in parts)
    return [str(number), name, email, f"{model} {product}", serial, parts]


rows = [order(100001 + index) for index in range(LINES)]


def put(column, value):
    return lambda row: row[:column] + [value] + row[column + 1:]


SPOILT = [
    lambda row: row[:5],                                # a missing field
    put(5, "bolt:four"),                                # a quantity in words
    put(5, "flux-capacitor:1"),                         # an unknown part
    put(4, ""),                                         # no serial number
    put(5, "gasket:-2"),                                # a negative quantity
    put(0, rows[97][0]),                                # an order number for the second time
    put(2, "mira.koch-at-post.example"),                # a mail address without @
    put(5, ""),                                         # no parts
    lambda row: row + ["please hurry"],                 # one field too many
    put(5, "nut:8;washer"),                             # a part without a quantity
    put(1, " "),                                        # no customer
    put(5, "hose:0"),                                   # none of a part
    put(0, "A1734"),                                    # an order number with a letter
    put(4, rows[1203][4]),                              # a serial number for the second time
    put(5, "blade:1;blade:2"),                          # a part twice
    lambda row: [row[0]],                               # cut off
    put(0, ""),                                         # no order number
    put(5, "bolt:99999999999"),                         # more than anybody has
    put(5, "Bearing:1"),                                # an unknown part, by its capital letter
    put(0, rows[1999][0]),                              # an order number for the second time
    put(5, "switch:1.5"),                               # half a part
    put(2, "@"),                                        # nobody's mail address
]
for index, spoil in zip(sorted(random.sample(range(2010, LINES), 8) + random.sample(range(1210, 2000), 6)
                               + random.sample(range(110, 1200), 8)), SPOILT, strict=True):
    rows[index] = spoil(rows[index])

with open(pathlib.Path(__file__).with_name("orders.csv"), "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["order", "customer", "email", "product", "serial", "parts"])
    writer.writerows(rows)
