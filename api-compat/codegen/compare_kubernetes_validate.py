#!/usr/bin/env python3
"""Compares the published schemas with those of the PyPI package kubernetes-validate 1.37 (an independent copy).

usage: compare_kubernetes_validate.py <.../kubernetes-json-schema/v1.37.0-local/_definitions.json> <out/documented.json>
"""
import collections
import json
import sys

theirs = json.load(open(sys.argv[1]))["$defs"]
ours = json.load(open(sys.argv[2]))
problems = collections.Counter()
shown = collections.Counter()


def report(what, where, a=None, b=None):
    problems[what] += 1
    shown[what] += 1
    if shown[what] <= 12:
        print(f"{what}: {where}: ours {json.dumps(a)[:150]}, theirs {json.dumps(b)[:150]}")


def plain(t):
    """JSON schema's ["string", "null"] is our "string"."""
    if isinstance(t, list):
        rest = [x for x in t if x != "null"]
        return rest[0] if len(rest) == 1 else sorted(rest)
    return t


def ref(s):
    for part in [s] + s.get("allOf", []) + s.get("oneOf", []) + s.get("anyOf", []):
        if isinstance(part, dict) and "$ref" in part:
            return part["$ref"].rsplit("/", 1)[1]
    return None


fields = 0
for name, their in theirs.items():
    our = ours.get(name)
    if our is None:
        report("definition missing", name)
        continue
    a, b = our.get("properties", {}), their.get("properties", {})
    for key in set(a) ^ set(b):
        report("property", f"{name}.{key}", key in a, key in b)
    if sorted(our.get("required", [])) != sorted(their.get("required", [])):
        report("required", name, our.get("required"), their.get("required"))
    gvk = lambda s: sorted(json.dumps(g, sort_keys=True) for g in s.get("x-kubernetes-group-version-kind", []))
    if gvk(our) != gvk(their):
        report("gvk", name, our.get("x-kubernetes-group-version-kind"), their.get("x-kubernetes-group-version-kind"))
    if our.get("x-kubernetes-map-type") != their.get("x-kubernetes-map-type"):
        report("struct map-type", name, our.get("x-kubernetes-map-type"), their.get("x-kubernetes-map-type"))
    for key in set(a) & set(b):
        x, y = a[key], b[key]
        fields += 1
        where = f"{name}.{key}"
        for ext in ["list-type", "list-map-keys", "map-type", "patch-strategy", "patch-merge-key"]:
            u, v = x.get("x-kubernetes-" + ext), y.get("x-kubernetes-" + ext)
            if u != v:
                report(ext, where, u, v)
        if ref(x) != ref(y):
            report("reference", where, ref(x), ref(y))
        if not ref(x) and plain(x.get("type")) != plain(y.get("type")):
            report("type", where, x.get("type"), y.get("type"))
        if x.get("format") != y.get("format"):
            report("format", where, x.get("format"), y.get("format"))
        if x.get("description") != y.get("description"):
            kind = "list description" if name.endswith("List") else "description"
            report(kind, where, x.get("description"), y.get("description"))
print(len(theirs), "definitions,", fields, "fields;", dict(problems) or "no difference")
