SELECT w.code AS warehouse, z.kind, count(DISTINCT l.id) AS locations, sum(i.on_hand) AS qty,
       sum(i.on_hand * p.weight_g::bigint) AS weight_g, sum(i.on_hand * pol.unit_cost) AS value,
       count(*) FILTER (WHERE lot.expires_on < :last_day::date) AS expired_lots
  FROM inventory i
  JOIN location l ON l.id = i.location_id
  JOIN zone z ON z.id = l.zone_id
  JOIN warehouse w ON w.id = z.warehouse_id
  JOIN lot ON lot.id = i.lot_id
  JOIN product p ON p.id = lot.product_id
  JOIN purchase_order_line pol ON pol.purchase_order_id = lot.purchase_order_id AND pol.line = lot.line
 GROUP BY w.code, z.kind
 ORDER BY w.code, z.kind
