package control

import (
	"context"
	"encoding/hex"
	"regexp"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// passwordBytes is how random a password for KMIP is.
const passwordBytes = 16

var userNameForm = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

// ReplaceInstanceKmipCredential makes a password that an instance's KMIP clients
// have to send.
func (h *handlers) ReplaceInstanceKmipCredential(ctx context.Context, request server.ReplaceInstanceKmipCredentialRequestObject) (server.ReplaceInstanceKmipCredentialResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	name := request.Body.UserName
	switch {
	case name == "":
		return nil, inField("user_name", fault.Missing, "Field `user_name` is missing or empty.")
	case !userNameForm.MatchString(name):
		return nil, inField("user_name", fault.Invalid, "Field `user_name` has to consist of at most 64 letters, digits, dots, underscores, hyphens and at signs.")
	}
	random := secret.Random(passwordBytes)
	defer random.Wipe()
	password := hex.EncodeToString(random.Reveal())
	credential := tenant.NewCredential(name, []byte(password))
	if _, err := h.instances.SetCredential(ctx, instance.Account, instance.ID, &credential); err != nil {
		return nil, orNoInstance(err)
	}
	return server.ReplaceInstanceKmipCredential200JSONResponse{UserName: name, Password: password}, nil
}

// DeleteInstanceKmipCredential lets KMIP clients in without a password.
func (h *handlers) DeleteInstanceKmipCredential(ctx context.Context, request server.DeleteInstanceKmipCredentialRequestObject) (server.DeleteInstanceKmipCredentialResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	if _, err := h.instances.SetCredential(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID), nil); err != nil {
		return nil, orNoInstance(err)
	}
	return server.DeleteInstanceKmipCredential204Response{}, nil
}
