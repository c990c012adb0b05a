// Package emulator plays the HTTP services of IBM Cloud that KMIP for VMware talks to: IAM (package
// iam), the resource controller, and the Key Protect API v2 as Key Protect (kms) and as Hyper
// Protect Crypto Services (hs-crypto). It is the embedded default for running locally and the other
// side of the tests. It knows nothing of our own clients: a wrong belief about IBM's API must not
// pass on both sides.
//
// Everything lives in one bbolt file in the data directory. A change is on disk before its answer
// leaves, so an emulator that is killed and started again has lost nothing it confirmed.
//
// # Seed
//
// Accounts, key manager instances, users and service IDs come from a JSON file, applied at every
// start. What the file names is written as the file says; what it does not name stays; keys and key
// rings are never touched.
//
//	{
//	  "accounts": [
//	    {"id": "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4", "name": "Example"}
//	  ],
//	  "instances": [
//	    {"service": "kms", "guid": "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01",
//	     "account": "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4", "region": "us-south", "name": "keys"}
//	  ],
//	  "users": [
//	    {"iam_id": "IBMid-270004ABCD", "email": "ada@example.com", "name": "Ada Lovelace",
//	     "account": "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4",
//	     "api_key": "an-api-key-of-at-least-32-characters",
//	     "access": [
//	       {"service": "kms", "instance": "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01", "roles": ["Reader"]},
//	       {"service": "vmware-solutions", "roles": ["Administrator"]}
//	     ]}
//	  ],
//	  "service_ids": [
//	    {"id": "ServiceId-0b9f3c52-7f55-4f2f-8c3f-5f0f3ad0a001", "name": "kmip",
//	     "account": "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4",
//	     "api_key": "another-api-key-of-32-characters-or-more",
//	     "access": [
//	       {"service": "kms", "instance": "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01", "roles": ["Manager"]}
//	     ]},
//	    {"id": "ServiceId-0b9f3c52-7f55-4f2f-8c3f-5f0f3ad0a002", "name": "operator",
//	     "account": "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4", "service": "vmware-solutions",
//	     "api_key": "a-third-api-key-of-32-characters-or-more"}
//	  ]
//	}
//
// Rules: account ids are 32 lower-case hexadecimal digits; an instance's service is kms or
// hs-crypto, and its service, account and region never change; an hs-crypto instance with
// "initialized": false has crypto units that nobody initialized, and refuses every call; an API key
// has at least 32 characters and one owner (IAM identity API, create an API key); a service ID with a
// service may act for the instances of that service; access to kms and hs-crypto names an instance of
// the seed, or none for all in the account, and the roles that IAM knows there; other services may
// have any role. Access becomes IAM policies, which a later start with the seed writes again. Unknown
// members are errors.
package emulator
