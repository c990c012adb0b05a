package crn_test

import (
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/crn"
)

func TestParse(t *testing.T) {
	for _, text := range []string{
		"crn:v1:bluemix:public:kms:us-south:a/0123456789abcdef0123456789abcdef:9c8a2b7e-0000-4000-8000-000000000001::",
		"crn:v1:bluemix:public:kms:eu-de:a/acc:inst:key:id",
		"crn:v1:bluemix:public:iam::::serviceRole:Manager",
		"crn:v1:bluemix:public:x:y:a/acc:inst:type:with:colons/and/slashes",
	} {
		c, err := crn.Parse(text)
		if err != nil || c.String() != text {
			t.Errorf("%s came back as %s, %v", text, c, err)
		}
	}
	c, err := crn.Parse("crn:v1:bluemix:public:hs-crypto:us-south:a/acc:inst::")
	if err != nil || c.Service != "hs-crypto" || c.Location != "us-south" || c.Account() != "acc" || c.Instance != "inst" {
		t.Errorf("%+v, %v", c, err)
	}
	if c := (crn.CRN{Scope: "o/org"}); c.Account() != "" {
		t.Errorf("an organisation's name has account %q", c.Account())
	}
	for _, text := range []string{"", "crn", "crn:v2:bluemix:public:kms:r:a/a:i::", "arn:v1:bluemix:public:kms:r:a/a:i::", "crn:v1:bluemix:public:kms:r:a/a:i:", "crn:v1::public:kms:r:a/a:i::"} {
		if c, err := crn.Parse(text); err == nil {
			t.Errorf("%q was read as %+v", text, c)
		}
	}
}
