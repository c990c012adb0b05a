// Package iam plays IBM Cloud IAM: the token service, the identity API (API keys, service IDs), policy
// management, and the decision whether somebody may do something. One Service is the source of all
// three for the other services of the emulator.
//
// # Decisions
//
// A principal is a user, a service ID, or an instance of a service, whose IAM id is "crn-" and the
// instance's CRN. It holds a role on a resource when an active policy says so: an access policy with
// its iam_id as subject, or, for an instance, an authorization policy whose subject attributes match
// the CRN's. All attributes of the policy's resource have to match the resource's; an attribute that
// the resource does not have matches nothing, so a policy for a key ring says nothing about calls
// that name no key ring. The access lists of a seed become access policies. Access groups are stored
// and never match.
//
// Roles and their actions are IBM's published ones (Key Protect and Hyper Protect Crypto Services,
// managing user access), with these assumptions:
//
//   - The role VMware KMIP Manager grants list, create, read, readmetadata, head, wrap, unwrap,
//     delete and restore of keys in the default key ring of an hs-crypto instance. At IBM the role
//     belongs to a KMIP server inside the instance and its actions are not public; here it is what a
//     KMIP server outside the instance needs.
//   - Whoever is Administrator or Manager on all that a policy's resource names may read, create,
//     change and delete that policy. IBM asks for the granted level at least.
//   - A service role does not show an instance in the resource controller; a platform role does.
//
// A change of policies counts at once, or after the decision delay: IBM caches decisions for minutes.
package iam
