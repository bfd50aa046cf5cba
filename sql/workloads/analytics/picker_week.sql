SELECT e.id, e.name, boss.name AS manager, z.kind AS zone, count(*) AS moves, sum(m.qty) AS qty,
       sum(m.qty * p.weight_g::bigint) AS weight_g
  FROM movement m
  JOIN employee e ON e.id = m.employee_id
  JOIN employee boss ON boss.id = e.manager_id
  JOIN lot ON lot.id = m.lot_id
  JOIN product p ON p.id = lot.product_id
  JOIN location l ON l.id = m.from_location_id
  JOIN zone z ON z.id = l.zone_id
 WHERE e.warehouse_id = :warehouse AND m.kind = 'pick' AND m.moved_at >= :day::date AND m.moved_at < :day::date + 7
 GROUP BY e.id, boss.name, z.kind
 ORDER BY e.id, z.kind
