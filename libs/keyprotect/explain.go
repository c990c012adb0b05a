package keyprotect

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// allowed says what each action of the API lets us do, in a sentence.
var allowed = map[string]string{
	"wrap": "wrap with the root key", "unwrap": "unwrap with the root key", "create": "create a standard key",
	"read": "read a standard key", "list": "list keys", "delete": "delete a standard key",
}

// explain adds to a failed action of a check what the customer can do about it.
func (c *Client) explain(err error) error {
	var f *failure
	if !errors.As(err, &f) || f.held {
		return err
	}
	if f.status == 0 {
		if sentence := c.unreached(f.err); sentence != "" {
			return fault.Wrap(fault.KindOf(err), sentence, err)
		}
		return err
	}
	switch {
	case !f.own:
		return err
	case f.status == http.StatusUnauthorized && f.action == "delete":
		return fault.Wrap(fault.Denied, "Keys can be made and read, but Destroy can't remove them: the key manager does not permit us to delete a standard key. "+c.remedy()+".",
			errors.Join(engine.ErrDestroyDenied, err))
	case f.status == http.StatusUnauthorized:
		return fault.Wrap(fault.Denied, fmt.Sprintf(
			"The key manager does not permit us to %s. %s, and check that root key and key ring belong to it.", allowed[f.action], c.remedy()), err)
	case f.status == http.StatusForbidden:
		return fault.Wrap(fault.Denied, "The key manager's network rules keep this service out. Allow private endpoints there: set the instance's allowed network to public-and-private or private-only, and take this service into its allowed IP addresses and context-based restrictions.", err)
	case f.code == "KEY_RING_NOT_FOUND_ERR":
		return fault.Wrap(fault.Denied, fmt.Sprintf(
			"The key manager has no key ring `%s`. Choose the key ring that the root key is in.", c.location.KeyRing), err)
	}
	return err
}

// remedy says who has to be given which role.
func (c *Client) remedy() string {
	if c.authorized == "" {
		return "Give the owner of the API key the platform role Viewer and the service role Manager on the key manager instance"
	}
	// VMware KMIP Manager is a role of HPCS (HPCS, managing user access).
	role := "VMware KMIP Manager"
	if c.instance.Service != "hs-crypto" {
		role = "Manager"
	}
	return fmt.Sprintf("Create an IAM service authorization: source service %s, instance %s; target the key manager instance %s; roles Viewer and %s",
		tenant.ServiceName, c.authorized, c.instance.Instance, role)
}

// unreached says why there was no answer, and who can mend that; "" when
// nothing is known.
func (c *Client) unreached(err error) string {
	address := c.base
	if u, err := url.Parse(c.base); err == nil {
		address = u.Host
	}
	const private = "the private endpoint of the key manager instance (allowed network public-and-private or private-only)"
	var unknown *net.DNSError
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return "The key manager's host name in `" + address + "` is not known. Enable " + private + "; a new instance's name may take some minutes. Then try again."
	case errors.As(err, &network) && network.Op == "dial":
		return "The key manager can't be reached at `" + address + "`. Enable service endpoints in the account and " + private + ". If they are, the key manager is away: try again later."
	case errors.As(err, &certificate), errors.Is(err, errNoTLS), errors.As(err, &network) && (network.Op == "remote error" || network.Op == "local error"):
		return "The key manager at `" + address + "` shows no certificate that is trusted for this name. Nothing was sent to it. The operator of this service has to mend that."
	}
	return ""
}
