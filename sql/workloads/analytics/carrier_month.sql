SELECT carrier.name, carrier.mode, w.code AS warehouse, count(*) AS shipments, sum(s.weight_g) AS weight_g,
       sum(s.weight_g * carrier.rate_per_kg / 1000) AS cost,
       sum(extract(epoch FROM s.delivered_at - s.shipped_at)) AS seconds_on_the_way,
       count(*) FILTER (WHERE c.tier = 1) AS best_customers
  FROM shipment s
  JOIN carrier ON carrier.id = s.carrier_id
  JOIN sales_order o ON o.id = s.order_id
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN customer c ON c.id = o.customer_id
 WHERE s.shipped_at >= :day::date AND s.shipped_at < :day::date + 30
 GROUP BY carrier.id, w.code
 ORDER BY carrier.id, w.code
