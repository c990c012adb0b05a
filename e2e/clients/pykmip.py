"""Drives a node with PyKMIP through every operation that both know.

Prints one JSON object: what each step answered, with labels for the identifiers that the server
chose, and how often each operation that is built was asked for.
"""
import argparse
import collections
import json
import logging
import time
import uuid

from kmip import enums
from kmip.core.exceptions import OperationFailure
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.factories.payloads.response import ResponsePayloadFactory
from kmip.core.messages import messages, payloads
from kmip.pie import objects
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

logging.disable(logging.CRITICAL)

# PyKMIP has no Add Attribute. In KMIP 1.x its payloads are those of Modify Attribute, a unique
# identifier and an attribute (KMIP 1.4, 4.14 and 4.15), which PyKMIP has.
ResponsePayloadFactory._create_add_attribute_payload = ResponsePayloadFactory._create_modify_attribute_payload

# Every request's batch items are counted.
asked = collections.Counter()
plain = messages.RequestBatchItem.__init__


def counting(self, operation=None, **more):
    if operation is not None:
        asked[operation.value.value] += 1
    plain(self, operation=operation, **more)


messages.RequestBatchItem.__init__ = counting

parser = argparse.ArgumentParser()
for option in ("host", "port", "ca", "cert", "key", "version"):
    parser.add_argument("--" + option, required=True)
given = parser.parse_args()
client = ProxyKmipClient(
    hostname=given.host, port=int(given.port), ca=given.ca, cert=given.cert, key=given.key,
    ssl_version="PROTOCOL_TLSv1_2", kmip_version=enums.KMIPVersion["KMIP_" + given.version.replace(".", "_")])
attribute = AttributeFactory().create_attribute
AES, SHA = enums.CryptographicAlgorithm.AES, enums.CryptographicAlgorithm.HMAC_SHA256
USE = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
suffix = "-" + str(uuid.uuid4())  # makes names this run's own
labels = {}  # by identifier
results = {}


def label(made, name):
    """Gives a new identifier a label, and returns the identifier."""
    if made in labels:
        raise ValueError("%s has the identifier of %s" % (name, labels[made]))
    labels[made] = name
    return made


def told(value):
    """Returns what to print of an answer: labels, and names without the suffix."""
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(v) for v in value]
    if isinstance(value, str):
        return labels.get(value, value.replace(suffix, ""))
    return value


def refused(call, *args, **more):
    """Returns the result reason that a call fails with, or None."""
    try:
        call(*args, **more)
    except (KmipOperationFailure, OperationFailure) as failure:
        return failure.reason.name
    return None


def shown(answer):
    """Returns what an answer to Add, Modify or Delete Attribute says: identifier, name, value."""
    key, changed = answer
    value = changed.attribute_value
    return [key, changed.attribute_name.value, getattr(value, "name_value", value).value]


def add(key, name, value):
    answer = client.proxy.send_request_payload(
        enums.Operation.ADD_ATTRIBUTE,
        payloads.ModifyAttributeRequestPayload(unique_identifier=key, attribute=attribute(name, value)))
    return shown((answer.unique_identifier, answer.attribute))


def modify(key, name, value):
    return shown(client.modify_attribute(key, attribute=attribute(name, value, 0)))


def delete(key, name):
    return shown(client.delete_attribute(key, attribute_name=name, attribute_index=0))


def value_of(key, name):
    """Returns the value of an attribute with one instance, or None."""
    found = client.get_attributes(key, [name])[1]
    if not found:
        return None
    value = found[0].attribute_value
    return getattr(value, "name_value", value).value


def state(key):
    return value_of(key, "State").name


def found(*attributes, **more):
    """Returns this run's objects among those located."""
    return sorted(labels[i] for i in client.locate(attributes=list(attributes), **more) if i in labels)


def ask():
    """Asks what the server can do."""
    listed = client.proxy.query(query_functions=[
        enums.QueryFunction.QUERY_OPERATIONS, enums.QueryFunction.QUERY_OBJECTS, enums.QueryFunction.QUERY_SERVER_INFORMATION])
    results["operations"] = sorted(o.name for o in listed.operations)
    results["objects"] = sorted(o.name for o in listed.object_types)
    results["vendor"] = listed.vendor_identification
    versions = client.proxy.discover_versions().protocol_versions
    results["versions"] = ["%d.%d" % (v.major, v.minor) for v in versions]


def attributes(key):
    """Adds, changes and deletes attributes."""
    results["added"] = [
        add(key, "x-Name", "a virtual machine"),
        add(key, enums.AttributeType.OBJECT_GROUP, "group" + suffix),
    ]
    results["modified"] = [
        modify(key, "x-Name", "another machine"),
        modify(key, enums.AttributeType.NAME, "renamed" + suffix),
    ]
    results["after"] = [value_of(key, "x-Name"), value_of(key, "Name")]
    results["listed"] = sorted(client.get_attribute_list(key))
    add(key, "x-Passing", "for a while")
    results["deleted"] = delete(key, "x-Passing")
    results["gone"] = value_of(key, "x-Passing")
    results["refused"] = {
        "add length": refused(add, key, enums.AttributeType.CRYPTOGRAPHIC_LENGTH, 128),
        "modify state": refused(modify, key, enums.AttributeType.STATE, enums.State.DEACTIVATED),
        "delete length": refused(delete, key, "Cryptographic Length"),
        "delete unset": refused(delete, key, "x-Passing"),
        "name of another": refused(add, label(client.create(AES, 128), "nameless"), enums.AttributeType.NAME, "renamed" + suffix),
    }


def locate(key):
    """Looks for the key by every kind of attribute."""
    group = attribute(enums.AttributeType.OBJECT_GROUP, "group" + suffix)
    born = value_of(key, "Initial Date")
    results["located"] = {
        "name": found(attribute(enums.AttributeType.NAME, "renamed" + suffix)),
        "old name": found(attribute(enums.AttributeType.NAME, "key" + suffix)),
        "custom": found(group, attribute("x-Name", "another machine")),
        "group": found(group),
        "state": found(group, attribute(enums.AttributeType.STATE, enums.State.PRE_ACTIVE)),
        "other state": found(group, attribute(enums.AttributeType.STATE, enums.State.ACTIVE)),
        "date": found(group, attribute(enums.AttributeType.INITIAL_DATE, born)),
        "range": found(
            group, attribute(enums.AttributeType.INITIAL_DATE, born - 1), attribute(enums.AttributeType.INITIAL_DATE, born + 1)),
        "other range": found(
            group, attribute(enums.AttributeType.INITIAL_DATE, born + 1), attribute(enums.AttributeType.INITIAL_DATE, born + 2)),
        "mask": found(group, attribute(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, USE[:1])),
        "other mask": found(
            group, attribute(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, [enums.CryptographicUsageMask.SIGN])),
        "type": found(group, attribute(enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY)),
        "other type": found(group, attribute(enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SECRET_DATA)),
        "identifier": found(attribute(enums.AttributeType.UNIQUE_IDENTIFIER, key)),
        "on-line": found(group, storage_status_mask=1),
        "archived": found(group, storage_status_mask=2),
        "one": len(client.locate(maximum_items=1)),
    }
    if given.version >= "1.3":
        results["located"]["beyond"] = found(group, offset_items=1)


def register():
    """Registers an object of every type, and reads the same back."""
    results["registered"] = []
    for name, made in (
            ("symmetric", objects.SymmetricKey(AES, 128, bytes(range(16)), masks=USE, name="symmetric" + suffix)),
            ("secret", objects.SecretData(
                b"correct horse", enums.SecretDataType.PASSWORD, masks=[enums.CryptographicUsageMask.VERIFY], name="secret" + suffix)),
            ("opaque", objects.OpaqueObject(b"\x00\x01 anything", enums.OpaqueDataType.NONE, name="opaque" + suffix))):
        key = label(client.register(made), name)
        got = client.get(key)
        results["registered"].append(
            [key, type(got).__name__, got.value == made.value, found(attribute(enums.AttributeType.NAME, name + suffix))])
        client.destroy(key)
        results["registered"][-1].append(refused(client.get, key))


def rekey(key):
    """Replaces a key: the new one has its name, and bytes of its own."""
    new = label(client.rekey(key), "replacement")
    results["rekeyed"] = {
        "bytes differ": client.get(new).value != client.get(key).value,
        "length": value_of(new, "Cryptographic Length"),
        "name": found(attribute(enums.AttributeType.NAME, "renamed" + suffix)),
        "states": [state(key), state(new)],
    }
    return new


def check(key):
    """Asks whether a key may be used. PyKMIP does not survive a failure of this operation."""
    results["checked"] = client.check(key, cryptographic_usage_mask=USE)


def life(key):
    """Takes a key from one state to the next."""
    results["states"] = [state(key)]
    client.activate(key)
    results["states"].append(state(key))
    results["destroy active"] = refused(client.destroy, key)
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, key)
    results["states"].append(state(key))
    client.destroy(key)
    results["states"].append(state(key))
    results["get destroyed"] = refused(client.get, key)
    results["get unknown"] = refused(client.get, str(uuid.uuid4()))


def compromise():
    """Revokes a key that others know, and destroys it."""
    key = label(client.create(AES, 256), "leaked")
    happened = int(time.time()) - 60
    client.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, key, "lost", happened)
    results["compromised"] = [state(key), value_of(key, "Compromise Occurrence Date") == happened]
    client.destroy(key)
    results["compromised"].append(state(key))


def missing(key):
    """Asks for what is not built."""
    results["not built"] = {
        "key pair": refused(client.create_key_pair, enums.CryptographicAlgorithm.RSA, 2048),
        "derived key": refused(
            client.derive_key, enums.ObjectType.SYMMETRIC_KEY, [key], enums.DerivationMethod.HASH,
            {"cryptographic_parameters": {"hashing_algorithm": enums.HashingAlgorithm.SHA_256}},
            cryptographic_length=256, cryptographic_algorithm=AES),
        "encrypt": refused(client.encrypt, b"text", key),
        "decrypt": refused(client.decrypt, b"text", key),
        "sign": refused(client.sign, b"text", key),
        "verify": refused(client.signature_verify, b"text", b"signature", key),
        "mac": refused(client.mac, b"text", key, SHA),
        "3DES": refused(client.create, enums.CryptographicAlgorithm.TRIPLE_DES, 168),
    }


with client:
    ask()
    key = label(client.create(AES, 256, name="key" + suffix, cryptographic_usage_mask=USE), "key")
    attributes(key)
    locate(key)
    register()
    check(key)
    life(rekey(key))
    compromise()
    built = dict(asked)
    missing(key)
print(json.dumps({"asked": built, "results": told(results)}))
