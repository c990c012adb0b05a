package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// readBody reads at most limit bytes of JSON, checks them strictly against
// into, a pointer to the route's body type, and puts them back for the
// generated decoder. PATCH takes a merge patch (RFC 7396), any other method
// plain JSON.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, into any) ([]byte, error) {
	wanted := "application/json"
	if r.Method == http.MethodPatch {
		wanted = "application/merge-patch+json"
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != wanted {
		return nil, &httpError{
			answer:  answer{http.StatusUnsupportedMediaType, api.ErrorCodeUnsupportedMediaType},
			target:  &api.ErrorTarget{Type: api.ErrorTargetTypeHeader, Name: "Content-Type"},
			message: "Send the body as JSON, with the header `Content-Type: " + wanted + "`.",
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fault.Newf(fault.TooLarge, "The body is longer than %d bytes.", limit)
	case err != nil:
		return nil, fault.Wrap(fault.Malformed, "The body ended before it was complete.", err)
	}
	if err := checkJSON(data, into); err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	return data, nil
}

// checkJSON decodes data into a pointer to a struct without nested objects and
// refuses what encoding/json lets pass: unknown and repeated names, names in
// another case, null, text after the object, and bytes that are not UTF-8. Its
// errors quote names, never values: a value may be a credential.
func checkJSON(data []byte, into any) error {
	if !utf8.Valid(data) {
		return fault.New(fault.Malformed, "The body is not valid UTF-8.")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return notObject(err)
	}
	known, seen := fieldsOf(into), make(map[string]bool)
	var wrong []error
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return notObject(err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return notObject(err)
		}
		name := token.(string) // inside an object, Token alternates names and values
		switch {
		case !known[name] && len(wrong) < maxReported:
			wrong = append(wrong, inField(fault.Shorten(name), fault.Invalid, "Field `%s` is unknown. Leave it out or correct its spelling.", fault.Shorten(name)))
		case seen[name] && len(wrong) < maxReported:
			wrong = append(wrong, inField(name, fault.Invalid, "Field `%s` appears more than once.", name))
		case string(value) == "null" && len(wrong) < maxReported:
			wrong = append(wrong, inField(name, fault.Invalid, "Field `%s` is null. Leave it out or give it a value.", name))
		}
		seen[name] = true
	}
	if _, err := decoder.Token(); err != nil {
		return notObject(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Malformed, "The body goes on after its JSON object.")
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	var mismatch *json.UnmarshalTypeError
	switch err := json.Unmarshal(data, into); {
	case errors.As(err, &mismatch):
		return inField(mismatch.Field, fault.Invalid, "Field `%s` has to be a %s.", mismatch.Field, mismatch.Type.Kind())
	case err != nil:
		return notObject(err)
	}
	return nil
}

// maxReported is how many errors of one body are told at once; the error
// container has room for 16.
const maxReported = 8

// notObject refuses a body that is not one JSON object.
func notObject(cause error) error {
	message := "The body is not a JSON object."
	var syntax *json.SyntaxError
	if errors.As(cause, &syntax) {
		message = fmt.Sprintf("The body is not valid JSON, at byte %d.", syntax.Offset)
	}
	return fault.New(fault.Malformed, message)
}

// fieldsOf returns the JSON names of a pointed-to struct's fields.
func fieldsOf(pointer any) map[string]bool {
	of := reflect.TypeOf(pointer).Elem()
	names := make(map[string]bool, of.NumField())
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}
