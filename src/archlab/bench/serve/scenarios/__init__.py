"""What Locust asks over time: each module is a locustfile with users and a shape."""
