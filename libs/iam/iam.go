// Package iam speaks with IBM Cloud Identity and Access Management: it fetches
// the access tokens with which we call other services, and verifies the access
// tokens of those who call us.
package iam

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The limits on what IAM may do to us, in one place.
const (
	// answerTime bounds one exchange with IAM, whoever waits for it.
	answerTime = 10 * time.Second
	// maxAnswer is the most that is read of an answer, in bytes.
	maxAnswer = 1 << 20
	// maxToken is the longest access token that is parsed, in bytes; IAM's
	// have between one and four thousand.
	maxToken = 16 << 10
)

// Config says which IAM to use.
type Config struct {
	// URL is IAM's address without a path: "https://iam.cloud.ibm.com", or
	// "https://private.iam.cloud.ibm.com". Plain http is accepted for this
	// machine alone.
	URL string
	// Issuer is what callers' tokens name as their issuer. Empty: URL followed
	// by /identity, as on IBM's public address; its private address issues
	// tokens in the public one's name.
	Issuer string
	// HTTP reaches IAM. Nil: a client of our own with Go's default transport.
	HTTP *http.Client
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// complete checks c and fills in what it leaves open. The client it returns
// ends every exchange, reads no endless answer and follows no redirection: a
// token or an API key goes to the configured address alone.
func (c Config) complete() (Config, error) {
	c.URL = strings.TrimSuffix(c.URL, "/")
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return Config{}, fmt.Errorf("IAM address %q: want https://<host>", c.URL)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !local(u.Hostname())) {
		return Config{}, fmt.Errorf("IAM address %q: want https; http is for this machine alone", c.URL)
	}
	if c.Issuer == "" {
		c.Issuer = c.URL + "/identity"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	client := http.Client{}
	if c.HTTP != nil {
		client = *c.HTTP
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = bounded{client.Transport}
	client.Timeout = answerTime
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.HTTP = &client
	return c, nil
}

// local reports whether host is this machine.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bounded cuts off answers after maxAnswer bytes.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(answer.Body, maxAnswer), answer.Body}
	return answer, nil
}
