// Package audit holds records of who did what, in the shape in which IBM Cloud
// Activity Tracker takes them (CADF). What becomes of a record is up to a Sink;
// a Log writes lines of which none can be changed or left out unseen.
package audit

import (
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Event is one record. No field holds a secret: who makes one sees to it.
type Event struct {
	EventTime       Time           `json:"eventTime"`
	Action          string         `json:"action"` // service.object.verb
	Outcome         Outcome        `json:"outcome"`
	Severity        Severity       `json:"severity"`
	DataEvent       bool           `json:"dataEvent"` // about keys, not about the service's management
	SaveServiceCopy bool           `json:"saveServiceCopy"`
	CorrelationID   string         `json:"correlationId"`
	LogSourceCRN    string         `json:"logSourceCRN"`
	Message         string         `json:"message"` // "<service>: <verb> <object> <name>", "-failure" at its end if it failed
	Observer        Observer       `json:"observer"`
	Initiator       Initiator      `json:"initiator"`
	Target          Target         `json:"target"`
	Reason          Reason         `json:"reason"`
	RequestData     map[string]any `json:"requestData"`
	ResponseData    map[string]any `json:"responseData"`
}

// Outcome tells how a call ended.
type Outcome string

// The outcomes.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
	Pending Outcome = "pending" // it was begun
)

// Severity tells how much an event matters.
type Severity string

// The severities.
const (
	Normal   Severity = "normal"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Observer is who records; always Activity Tracker.
type Observer struct {
	Name string `json:"name"`
}

// ActivityTracker is the observer of every event.
var ActivityTracker = Observer{Name: "ActivityTracker"}

// Initiator is who called.
type Initiator struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	TypeURI    string     `json:"typeURI"`
	Credential Credential `json:"credential"`
	Host       Host       `json:"host"`
}

// Credential is what the caller proved itself with.
type Credential struct {
	Type string `json:"type"`
}

// Host is where the caller was.
type Host struct {
	Agent       string `json:"agent,omitempty"`
	Address     string `json:"address,omitempty"`
	AddressType string `json:"addressType,omitempty"` // IPv4, IPv6 or CSE
}

// HostAt returns the host at an address; an invalid address stands for none.
func HostAt(a netip.Addr) Host {
	switch a = a.Unmap(); {
	case a.Is4():
		return Host{Address: a.String(), AddressType: "IPv4"}
	case a.Is6():
		return Host{Address: a.String(), AddressType: "IPv6"}
	}
	return Host{}
}

// Target is what the call was about.
type Target struct {
	ID      string `json:"id"` // CRN
	Name    string `json:"name"`
	TypeURI string `json:"typeURI"` // service/object
}

// Reason is why the outcome is what it is.
type Reason struct {
	ReasonCode       int    `json:"reasonCode"` // HTTP status
	ReasonType       string `json:"reasonType"` // its text
	ReasonForFailure string `json:"reasonForFailure,omitempty"`
}

// Time is a point in time as Activity Tracker writes it.
type Time time.Time

// timeForm has hundredths of seconds, in UTC.
const timeForm = "2006-01-02T15:04:05.00-0700"

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, timeForm), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Time) UnmarshalText(text []byte) error {
	parsed, err := time.Parse(timeForm, string(text))
	*t = Time(parsed.UTC())
	return err
}

// critical are the changes that matter most: deletions and changes of
// credentials.
var critical = map[string]bool{"delete": true, "destroy": true, "revoke": true}

// SeverityOf gives the severity of a call by its verb, whether it changes a
// credential, and the HTTP status of its answer, which decides if it is one of
// those that Activity Tracker lists (IBM Cloud, severity of events).
func SeverityOf(verb string, credential bool, status int) Severity {
	switch status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusFailedDependency,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusHTTPVersionNotSupported:
		return Warning
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable, http.StatusInsufficientStorage:
		return Critical
	}
	switch {
	case critical[verb], credential:
		return Critical
	case verb == "update", verb == "rotate", verb == "restore", verb == "enable", verb == "disable":
		return Warning
	}
	return Normal
}

// OutcomeOf gives the outcome of a call by the HTTP status of its answer.
func OutcomeOf(status int) Outcome {
	switch {
	case status == http.StatusAccepted:
		return Pending
	case status < http.StatusBadRequest:
		return Success
	}
	return Failure
}

// MessageOf makes the message of an event.
func MessageOf(service, verb, object, name string, o Outcome) string {
	text := service + ": " + verb + " " + strings.TrimSpace(object+" "+name)
	if o == Failure {
		text += " -failure"
	}
	return text
}

// Sink takes a record, wherever it goes. It is safe for concurrent use.
type Sink func(Event) error
