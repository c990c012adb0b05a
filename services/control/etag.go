package control

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
)

const ifMatch = "If-Match"

var entityTagsForm = regexp.MustCompile(`^(\*|"[!#-~]+"(, *"[!#-~]+")*)$`)

// errStale is the answer when If-Match names another state.
var errStale = &httpError{
	answer:  answer{http.StatusPreconditionFailed, api.ErrorCodePreconditionFailed},
	target:  &api.ErrorTarget{Type: api.ErrorTargetTypeHeader, Name: ifMatch},
	message: "The instance is no longer in the state that the header `If-Match` names. Get it again and decide anew.",
}

// etag names a state of an instance: it changes with whatever the account or
// the operator changes, but not as nodes report and conditions come and go.
func etag(i pg.Instance) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", i.ID, i.UpdatedAt.UnixMicro(), i.Revision))
	return `"` + new(big.Int).SetBytes(sum[:16]).Text(36) + `"`
}

// matches reads the header If-Match (RFC 9110 section 13.1.1); nil is none.
func matches(header *string) (pg.Match, error) {
	if header == nil {
		return nil, nil
	}
	if !entityTagsForm.MatchString(*header) {
		return nil, inHeader(ifMatch, fault.Invalid, "Header `If-Match` has to be an entity tag in quotation marks, as the header `ETag` of an answer has it, or `*`.")
	}
	if *header == "*" {
		return nil, nil
	}
	tags := strings.Split(strings.ReplaceAll(*header, " ", ""), ",")
	return func(i pg.Instance) bool { return slices.Contains(tags, etag(i)) }, nil
}
