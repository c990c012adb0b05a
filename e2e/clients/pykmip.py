"""Drives a node with PyKMIP: makes, names, finds, reads, activates, revokes and destroys a key.

Prints one JSON object.
"""
import argparse
import hashlib
import json
import logging
import uuid

from kmip import enums
from kmip.core.exceptions import OperationFailure
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.factories.payloads.response import ResponsePayloadFactory
from kmip.core.messages import payloads
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

logging.disable(logging.CRITICAL)

# PyKMIP has no Add Attribute. In KMIP 1.x its payloads are those of Modify Attribute, a unique
# identifier and an attribute (KMIP 1.4, 4.14 and 4.15), which PyKMIP has.
ResponsePayloadFactory._create_add_attribute_payload = ResponsePayloadFactory._create_modify_attribute_payload


def add(key, name, value):
    """Returns what the server answers to Add Attribute: unique identifier, name and value."""
    answer = client.proxy.send_request_payload(
        enums.Operation.ADD_ATTRIBUTE,
        payloads.ModifyAttributeRequestPayload(unique_identifier=key, attribute=attribute(name, value)))
    added = answer.attribute
    return [answer.unique_identifier, added.attribute_name.value, added.attribute_value.value]


def refused(call, *args):
    """Returns the result reason that a call fails with, or None."""
    try:
        call(*args)
    except (KmipOperationFailure, OperationFailure) as failure:
        return failure.reason.name
    return None


parser = argparse.ArgumentParser()
for option in ("host", "port", "ca", "cert", "key", "version"):
    parser.add_argument("--" + option, required=True)
given = parser.parse_args()
client = ProxyKmipClient(
    hostname=given.host, port=int(given.port), ca=given.ca, cert=given.cert, key=given.key,
    ssl_version="PROTOCOL_TLSv1_2", kmip_version=enums.KMIPVersion["KMIP_" + given.version.replace(".", "_")])
attribute = AttributeFactory().create_attribute
name = "pykmip-" + str(uuid.uuid4())
result = {}
with client:
    key = client.create(enums.CryptographicAlgorithm.AES, 256, name=name)
    result["id"] = key
    result["added"] = add(key, "x-Name", "a virtual machine")
    result["add_refused"] = refused(add, key, enums.AttributeType.CRYPTOGRAPHIC_LENGTH, 128)
    result["located"] = client.locate(attributes=[
        attribute(enums.AttributeType.NAME, name),
        attribute("x-Name", "a virtual machine"),
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
