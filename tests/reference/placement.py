#!/usr/bin/env python3
"""The placement of docs/PLACEMENT.md, written a second time.

Standard library only, plain rather than fast, and written from the document, not from the Rust code: fractions where
the Rust multiplies integers, whole rankings where it keeps short lists. A test feeds both the same memberships and
compares every partition of every one.

Reads cases from standard input, one directive a line, and answers each on standard output:

    key HEX SEED LOG2Q                                    -> key HASH PARTITION
    case Q REPLICAS EPSILON_PPM balanced|tokens/V
    node ID ZONE WEIGHT                                   (any number, in any order)
    end                                                   -> membership DIGEST
                                                             one line per partition: the owners' positions by id
                                                             placement DIGEST
"""

import sys
from bisect import bisect_left
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from fractions import Fraction
from math import ceil

U64 = (1 << 64) - 1

# ---------------------------------------------------------------- xxh3_64, inputs up to 240 bytes

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME_1 = 0x9E3779B185EBCA87
PRIME_2 = 0xC2B2AE3D27D4EB4F
PRIME_3 = 0x165667B19E3779F9
PRIME_MX1 = 0x165667919E3779F9
PRIME_MX2 = 0x9FB21C651E98DF25


def read32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def read64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def fold(a, b):
    product = a * b
    return (product & U64) ^ (product >> 64)


def rotate(x, bits):
    return ((x << bits) | (x >> (64 - bits))) & U64


def swap(x, size):
    return int.from_bytes(x.to_bytes(size, "little"), "big")


def avalanche_64(h):
    h = ((h ^ (h >> 33)) * PRIME_2) & U64
    h = ((h ^ (h >> 29)) * PRIME_3) & U64
    return h ^ (h >> 32)


def avalanche_3(h):
    h = ((h ^ (h >> 37)) * PRIME_MX1) & U64
    return h ^ (h >> 32)


def mix16(data, at, secret_at, seed):
    low = read64(data, at) ^ ((read64(SECRET, secret_at) + seed) & U64)
    high = read64(data, at + 8) ^ ((read64(SECRET, secret_at + 8) - seed) & U64)
    return fold(low, high)


def xxh3_64(data, seed=0):
    n = len(data)
    if n == 0:
        return avalanche_64(seed ^ read64(SECRET, 56) ^ read64(SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return avalanche_64(combined ^ (((read32(SECRET, 0) ^ read32(SECRET, 4)) + seed) & U64))
    if n <= 8:
        seed ^= swap(seed & 0xFFFFFFFF, 4) << 32
        flip = ((read64(SECRET, 8) ^ read64(SECRET, 16)) - seed) & U64
        h = (read32(data, n - 4) + (read32(data, 0) << 32)) ^ flip
        h ^= rotate(h, 49) ^ rotate(h, 24)
        h = (h * PRIME_MX2) & U64
        h ^= (h >> 35) + n
        h = (h * PRIME_MX2) & U64
        return h ^ (h >> 28)
    if n <= 16:
        low = read64(data, 0) ^ (((read64(SECRET, 24) ^ read64(SECRET, 32)) + seed) & U64)
        high = read64(data, n - 8) ^ (((read64(SECRET, 40) ^ read64(SECRET, 48)) - seed) & U64)
        return avalanche_3((n + swap(low, 8) + high + fold(low, high)) & U64)
    acc = n * PRIME_1
    if n <= 128:
        for i in reversed(range((n - 1) // 32 + 1)):
            acc += mix16(data, 16 * i, 32 * i, seed) + mix16(data, n - 16 * (i + 1), 32 * i + 16, seed)
        return avalanche_3(acc & U64)
    assert n <= 240, "long keys are not needed here"
    for i in range(8):
        acc += mix16(data, 16 * i, 16 * i, seed)
    acc = avalanche_3(acc & U64)
    for i in range(8, n // 16):
        acc += mix16(data, 16 * i, 16 * (i - 8) + 3, seed)
    return avalanche_3((acc + mix16(data, n - 16, 136 - 17, seed)) & U64)


# ---------------------------------------------------------------- scores and costs


def fmix64(x):
    x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) & U64
    x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) & U64
    return x ^ (x >> 33)


def score(node_hash, number):
    return fmix64(node_hash ^ fmix64(((number * 0x9E3779B97F4A7C15) & U64) ^ 0x5851F42D4C957F2D))


def log2_table():
    getcontext().prec = 60
    ln2 = Decimal(2).ln()
    entries = (((1 + Decimal(i) / 256).ln() / ln2) * (1 << 48) for i in range(257))
    return [int(entry.to_integral_value(ROUND_HALF_EVEN)) for entry in entries]


LOG2 = log2_table()


def weighted_cost(s, weight):
    s = max(s, 1)
    zeros = 64 - s.bit_length()
    mantissa = s << zeros
    at = (mantissa >> 55) & 255
    log2 = LOG2[at] + (((LOG2[at + 1] - LOG2[at]) * (mantissa & ((1 << 55) - 1))) >> 55)
    raw = ((zeros + 1) << 48) - log2
    return ((raw << 9) * (U64 // weight)) >> 64


# ---------------------------------------------------------------- shares


class Node:
    def __init__(self, name, zone, weight):
        self.name, self.zone, self.weight = name, zone, weight
        self.hash = xxh3_64(name.encode())


def zone_quotas(copies, zones):
    height = 1
    while sum(min(len(members), height) for members in zones.values()) < copies:
        height += 1
    low = {zone: min(len(members), height - 1) for zone, members in zones.items()}
    high = {zone: min(len(members), height) for zone, members in zones.items()}
    return low, high


def level(total, items):
    """The shares clamp(x * weight, low, high) that add up to total, for items name -> (weight, low, high)."""

    def at(x):
        return {name: min(max(x * w, low), high) for name, (w, low, high) in items.items()}

    bends = sorted({Fraction(bound) / w for w, low, high in items.values() for bound in (low, high)})
    below = Fraction(0)
    for bend in bends:
        here, there = sum(at(below).values()), sum(at(bend).values())
        if there >= total:
            x = bend if there == here else below + (bend - below) * (total - here) / (there - here)
            return at(x)
        below = bend
    return at(below)


def shares_and_caps(q, epsilon_ppm, copies, nodes, zones, low, high):
    weight_of = {zone: sum(nodes[i].weight for i in members) for zone, members in zones.items()}
    of_zone = level(Fraction(copies), {zone: (weight_of[zone], low[zone], high[zone]) for zone in zones})
    slack = Fraction(1_000_000 + epsilon_ppm, 1_000_000)
    whole_weight = sum(weight_of.values())
    copies_cap, primaries_cap = [0] * len(nodes), [0] * len(nodes)
    for zone, members in zones.items():
        of_node = level(of_zone[zone], {i: (nodes[i].weight, 0, 1) for i in members})
        for i in members:
            copies_cap[i] = min(q, ceil(of_node[i] * q * slack))
            primaries_cap[i] = min(q, ceil(Fraction(nodes[i].weight, whole_weight) * q * slack))
    return copies_cap, primaries_cap


# ---------------------------------------------------------------- the placement


class Placement:
    def __init__(self, q, replicas, epsilon_ppm, algorithm, nodes):
        self.q, self.nodes = q, nodes
        self.copies = min(replicas, len(nodes))
        self.zones = {}
        for i, node in enumerate(nodes):
            self.zones.setdefault(node.zone, []).append(i)
        self.low, self.high = zone_quotas(self.copies, self.zones)
        self.copies_cap, self.primaries_cap = shares_and_caps(
            q, epsilon_ppm, self.copies, nodes, self.zones, self.low, self.high
        )
        self.epsilon_ppm = epsilon_ppm
        self.rankings = [self.ranking(p, algorithm) for p in range(q)]
        self.cost = [{node: cost for cost, node in ranking} for ranking in self.rankings]
        self.sets = [set() for _ in range(q)]
        self.load = [0] * len(nodes)
        self.place_copies(sum(self.low.values()), self.low)
        self.place_copies(self.copies, self.high)
        self.place_primaries()
        self.owners = self.order_backups()

    def ranking(self, p, algorithm):
        if algorithm == "balanced":
            return sorted((weighted_cost(score(n.hash, p), n.weight), i) for i, n in enumerate(self.nodes))
        per_weight = int(algorithm.removeprefix("tokens/"))
        point = (p << 64) // self.q
        ranking = []
        for i, node in enumerate(self.nodes):
            if not hasattr(node, "tokens"):
                node.tokens = sorted(score(node.hash, j) for j in range(per_weight * node.weight))
            nearest = node.tokens[bisect_left(node.tokens, point) % len(node.tokens)]
            ranking.append(((nearest - point) & U64, i))
        return sorted(ranking)

    def in_zone(self, p, zone):
        return sum(self.nodes[i].zone == zone for i in self.sets[p])

    def may_take(self, p, i, limit):
        return i not in self.sets[p] and self.in_zone(p, self.nodes[i].zone) < limit[self.nodes[i].zone]

    def give(self, p, i):
        self.sets[p].add(i)
        self.load[i] += 1

    def take_away(self, p, i):
        self.sets[p].remove(i)
        self.load[i] -= 1

    def place_copies(self, wanted, limit):
        for p in range(self.q):
            for _, i in self.rankings[p]:
                if len(self.sets[p]) == wanted:
                    break
                if self.load[i] < self.copies_cap[i] and self.may_take(p, i, limit):
                    self.give(p, i)
            while len(self.sets[p]) < wanted:
                self.exchange_copies(p, limit)

    def exchange_copies(self, p, limit):
        starts = [i for _, i in self.rankings[p] if self.may_take(p, i, limit)]
        came_from = {i: None for i in starts}
        queue = list(starts)
        for giver in queue:
            for step in range(1, self.q):
                other = (p - step) % self.q
                if giver not in self.sets[other] or other in chain(came_from, giver):
                    continue
                for taker in range(len(self.nodes)):
                    if taker in came_from or not self.may_swap(other, giver, taker, limit):
                        continue
                    came_from[taker] = (giver, other)
                    if self.load[taker] < self.copies_cap[taker]:
                        while came_from[taker] is not None:
                            giver, other = came_from[taker]
                            self.take_away(other, giver)
                            self.give(other, taker)
                            taker = giver
                        self.give(p, taker)
                        return
                    queue.append(taker)
        self.give(p, min(starts, key=lambda i: (Fraction(self.load[i], self.copies_cap[i]), i)))

    def may_swap(self, p, giver, taker, limit):
        if taker in self.sets[p]:
            return False
        source, target = self.nodes[giver].zone, self.nodes[taker].zone
        if source == target:
            return True
        return self.in_zone(p, source) > self.low[source] and self.in_zone(p, target) < limit[target]

    def place_primaries(self):
        self.rows = [sorted(held, key=lambda i: (self.cost[p][i], i)) for p, held in enumerate(self.sets)]
        self.primary = [None] * self.q
        self.primaries = [0] * len(self.nodes)
        if self.copies == 0:
            return
        for p, row in enumerate(self.rows):
            room = (i for i in row if self.primaries[i] < self.primaries_cap[i])
            chosen = next(room, None)
            if chosen is None:
                chosen = self.exchange_primaries(p)
            self.primary[p] = chosen
            self.primaries[chosen] += 1

    def exchange_primaries(self, p):
        came_from = {i: None for i in self.rows[p]}
        queue = list(self.rows[p])
        for giver in queue:
            for other in range(p - 1, -1, -1):
                if self.primary[other] != giver or other in chain(came_from, giver):
                    continue
                for taker in self.rows[other]:
                    if taker in came_from:
                        continue
                    came_from[taker] = (giver, other)
                    if self.primaries[taker] < self.primaries_cap[taker]:
                        while came_from[taker] is not None:
                            giver, other = came_from[taker]
                            self.primary[other] = taker
                            self.primaries[giver] -= 1
                            self.primaries[taker] += 1
                            taker = giver
                        return taker
                    queue.append(taker)
        return min(self.rows[p], key=lambda i: (Fraction(self.primaries[i], self.primaries_cap[i]), i))

    def order_backups(self):
        apart = all(high <= 1 for high in self.high.values())
        slack = Fraction(1_000_000 + self.epsilon_ppm, 1_000_000)
        behind = {}
        owners = []
        for p, row in enumerate(self.rows):
            primary = self.primary[p]
            others = [i for i in row if i != primary]
            if len(others) >= 2:
                eligible = sum(
                    n.weight
                    for i, n in enumerate(self.nodes)
                    if (n.zone != self.nodes[primary].zone if apart else i != primary)
                )
                count = lambda i: behind.get((primary, i), 0)
                share = lambda i: ceil(Fraction(self.primaries[primary] * self.nodes[i].weight, eligible) * slack)
                below = [i for i in others if count(i) < share(i)]
                second = below[0] if below else min(others, key=lambda i: Fraction(count(i) + 1, self.nodes[i].weight))
                behind[primary, second] = count(second) + 1
                others.remove(second)
                others.insert(0, second)
            owners.append(others if primary is None else [primary] + others)
        return owners


def chain(came_from, node):
    moved = set()
    while came_from[node] is not None:
        node, partition = came_from[node]
        moved.add(partition)
    return moved


def membership_digest(nodes):
    digest = 0
    for node in nodes:
        digest = fmix64(digest ^ xxh3_64(f"{node.name} {node.zone} {node.weight}".encode()))
    return digest


def placement_digest(owners):
    digest = 0
    for row in owners:
        for i in row:
            digest = fmix64(digest ^ (i + 1))
        digest = fmix64(digest)
    return digest


def main():
    settings, nodes = None, []
    for line in sys.stdin:
        directive, *fields = line.split()
        if directive == "key":
            data, seed, log2_q = fields[0], int(fields[1]), int(fields[2])
            key_hash = xxh3_64(bytes.fromhex(data.removeprefix("0x")), seed)
            print("key", f"{key_hash:016x}", key_hash >> (64 - log2_q))
        elif directive == "case":
            settings, nodes = fields, []
        elif directive == "node":
            nodes.append(Node(fields[0], fields[1], int(fields[2])))
        elif directive == "end":
            nodes.sort(key=lambda node: node.name)
            q, replicas, epsilon_ppm, algorithm = settings
            owners = Placement(int(q), int(replicas), int(epsilon_ppm), algorithm, nodes).owners
            print("membership", f"{membership_digest(nodes):016x}")
            for row in owners:
                print(*row)
            print("placement", f"{placement_digest(owners):016x}")


if __name__ == "__main__":
    main()
