"""Drives a node with PyKMIP: makes, finds, reads, activates, revokes and destroys a key.

Usage: pykmip.py <version>, with the names of stack.env in the environment. Prints one JSON object.
"""
import hashlib
import json
import logging
import os
import sys
import uuid

from kmip import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

logging.disable(logging.CRITICAL)


def refused(call, *args):
    """Returns the result reason that a call fails with, or None."""
    try:
        call(*args)
    except KmipOperationFailure as failure:
        return failure.reason.name
    return None


env = os.environ
client = ProxyKmipClient(
    hostname=env["KMIP_HOST"], port=int(env["KMIP_PORT"]), ca=env["KMIP_CA"],
    cert=env["KMIP_CERT"], key=env["KMIP_KEY"], ssl_version="PROTOCOL_TLSv1_2",
    kmip_version=enums.KMIPVersion["KMIP_" + sys.argv[1].replace(".", "_")])
attribute = AttributeFactory().create_attribute
name = "pykmip-" + str(uuid.uuid4())
result = {}
with client:
    key = client.create(enums.CryptographicAlgorithm.AES, 256, name=name)
    result["id"] = key
    result["located"] = client.locate(attributes=[
        attribute(enums.AttributeType.NAME, name),
        attribute(enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY)])
    result["digest"] = hashlib.sha256(client.get(key).value).hexdigest()

    def state():
        return client.get_attributes(key, ["State"])[1][0].attribute_value.value.name

    result["states"] = [state()]
    client.activate(key)
    result["states"].append(state())
    result["destroy_active"] = refused(client.destroy, key)
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, key)
    result["states"].append(state())
    client.destroy(key)
    result["states"].append(state())
    result["get_destroyed"] = refused(client.get, key)
    result["get_unknown"] = refused(client.get, str(uuid.uuid4()))
print(json.dumps(result))
