package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Exchange is one request and its answer from one address. A request that is
// redirected makes two of them.
type Exchange struct {
	Method, Path string
	To           string
	Began        time.Time
	Took         time.Duration // until the headers of the answer arrived
	Status       int           // 0: there was no answer
	Header       http.Header
	Code         string // from the problem document of an answer with status 500 or more; empty if there is none
	Err          error
}

// Observed returns a client for the same address, on the same connections, that calls
// see for each exchange. see is called from many goroutines.
func (c *Client) Observed(see func(Exchange)) *Client {
	observed, plain := *c, *c.http
	plain.Transport = observer{c.http.Transport, see}
	observed.http = &plain
	return &observed
}

type observer struct {
	http.RoundTripper
	see func(Exchange)
}

// RoundTrip implements http.RoundTripper.
func (o observer) RoundTrip(request *http.Request) (*http.Response, error) {
	e := Exchange{Method: request.Method, Path: request.URL.Path, To: request.URL.Host, Began: time.Now()}
	response, err := o.RoundTripper.RoundTrip(request)
	e.Took, e.Err = time.Since(e.Began), err
	if err == nil {
		e.Status, e.Header = response.StatusCode, response.Header
	}
	if e.Status >= http.StatusInternalServerError {
		e.Code = codeOf(response)
	}
	o.see(e)
	return response, err
}

// codeOf reads the code in the body of a response, and leaves the body to be read again.
func codeOf(response *http.Response) string {
	content, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(content))
	var problem Problem
	if err != nil || json.Unmarshal(content, &problem) != nil {
		return ""
	}
	return problem.Code
}
