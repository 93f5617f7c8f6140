package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

func init() { register("guestbook", guestbook) }

// store is a tiny key-value server with replicas that register at the primary.
type store struct {
	sync.Mutex
	values   map[string]string
	replicas map[string]bool
}

func guestbook(args []string) error {
	set := flags("guestbook")
	port := set.String("http-port", "80", "port")
	backend := set.String("backend-port", "6379", "port of primary and replicas")
	replicaOf := ""
	set.StringVar(&replicaOf, "replicaof", "", "host of the primary")
	set.StringVar(&replicaOf, "slaveof", "", "host of the primary")
	parse(set, args)
	s := &store{values: map[string]string{}, replicas: map[string]bool{}}
	if replicaOf != "" {
		go s.join(replicaOf, *backend, *port)
	}
	http.HandleFunc("/register", s.register)
	http.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		s.Lock()
		defer s.Unlock()
		answerJSON(w, http.StatusOK, map[string]string{"data": s.values[r.FormValue("key")]})
	})
	http.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) {
		key, value := r.FormValue("key"), r.FormValue("value")
		s.Lock()
		s.values[key] = value
		replicas := make([]string, 0, len(s.replicas))
		for host := range s.replicas {
			replicas = append(replicas, host)
		}
		s.Unlock()
		for _, host := range replicas {
			target := fmt.Sprintf("http://%s/set?key=%s&value=%s", host, url.QueryEscape(key), url.QueryEscape(value))
			if _, _, err := fetch(target); err != nil {
				log.Printf("replica %s: %v", host, err)
			}
		}
		answerJSON(w, http.StatusOK, map[string]string{})
	})
	http.HandleFunc("/guestbook", func(w http.ResponseWriter, r *http.Request) { front(w, r, *backend) })
	return http.ListenAndServe(":"+*port, nil)
}

func (s *store) register(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if given := r.FormValue("host"); given != "" {
		host = given
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, r.FormValue("port"))
	}
	s.Lock()
	defer s.Unlock()
	s.replicas[host] = true
	values, err := json.Marshal(s.values)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, http.StatusOK, map[string]string{"data": string(values)})
}

// join registers at the primary until that works, and takes over its values.
func (s *store) join(primary, backend, port string) {
	for {
		code, body, err := fetch(fmt.Sprintf("http://%s/register?port=%s", net.JoinHostPort(primary, backend), port))
		var answer map[string]string
		values := map[string]string{}
		if err == nil && code == http.StatusOK {
			if err = json.Unmarshal([]byte(body), &answer); err == nil {
				err = json.Unmarshal([]byte(answer["data"]), &values)
			}
			if err == nil {
				s.Lock()
				s.values = values
				s.Unlock()
				log.Printf("registered at %s", primary)
				return
			}
		}
		log.Printf("register at %s: %d %v", primary, code, err)
		time.Sleep(time.Second)
	}
}

func front(w http.ResponseWriter, r *http.Request, port string) {
	command, key, value := r.FormValue("cmd"), r.FormValue("key"), r.FormValue("value")
	ask := func(host, path string) (string, error) {
		code, body, err := fetch("http://" + net.JoinHostPort(host, port) + path)
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%s answered %d", host, code)
		}
		return body, err
	}
	switch command {
	case "get":
		body, err := ask("agnhost-replica", "/get?key="+url.QueryEscape(key))
		if err != nil {
			http.Error(w, err.Error(), http.StatusExpectationFailed)
			return
		}
		fmt.Fprint(w, body)
	case "set":
		if _, err := ask("agnhost-primary", "/set?key="+url.QueryEscape(key)+"&value="+url.QueryEscape(value)); err != nil {
			http.Error(w, err.Error(), http.StatusExpectationFailed)
			return
		}
		fmt.Fprint(w, `{"message": "Updated"}`)
	default:
		http.Error(w, fmt.Sprintf("no command %q", command), http.StatusBadRequest)
	}
}
